"""What does an outer step cost on a GPU, next to a step of transformers.Trainer?

Times whole steps of models of the sizes that people train, with random weights: XLM-R-base with
bottleneck adapters, and a Llama of one billion parameters whose base is frozen and whose θ and φ
are LoRAs. Steps take turns, and their medians are ratios to the Trainer's in the same run. Passes
run under bfloat16 autocast, with PyTorch's fused attention.

Needs:    a CUDA device with bfloat16; 80 GB for the largest steps, others are reported as out of
          memory. `--device cpu --shapes tiny_encoder tiny_decoder` runs all of its code anywhere.
Takes:    --seconds, and half a minute to start. Steps for which no time is left are reported as
          not run, and steps that were timed less than --repeats times tell how often.
Writes:   one JSON file, and a table to the terminal.
Command:  hf-meta-adapters run benchmark_gpu --output benchmark_gpu.json
Override: --languages 3 7 --shapes encoder --settings '^(joint|fast)' --seconds 200, see --help;
          --compiled true adds a step whose layers are compiled, which takes minutes: give it one
          shape and one number of languages, and a large --seconds.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers

from hf_meta_adapters import LanguageAdapterModel, __version__
from hf_meta_adapters.cli import parse_arguments
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.benchmark_shapes import SHAPES, BenchmarkShape, flops_of_training
from hf_meta_adapters.study.benchmark_steps import TRAINER, BenchmarkSteps
from hf_meta_adapters.study.device_report import describe_device
from hf_meta_adapters.study.step_clock import StepClock

FLOPS = (
    "6·N·T of one training pass (4·N·T where the base is frozen): T tokens, N weights of the base"
    " that multiply activations; those of the head count at labeled positions only"
)
AFTER_COMPILING = 20  # seconds
WARM_UP = 2  # languages that take about as long as the start of a cell
MEMORY = "above the start of the step, by PyTorch's allocator"


@dataclass
class Arguments:
    """What can be set on the command line."""

    output: str = field(default="outputs/benchmark_gpu.json", metadata={"help": "Result."})
    device: str = field(default="cuda", metadata={"help": "cuda, or cpu to try the recipe."})
    shapes: list[str] = field(
        default_factory=lambda: ["encoder", "decoder"], metadata={"help": f"Of {list(SHAPES)}."}
    )
    languages: list[int] = field(default_factory=lambda: [3, 7, 14], metadata={"help": "Numbers."})
    repeats: int = field(default=5, metadata={"help": "Timed steps of each, after one."})
    seconds: float = field(default=75, metadata={"help": "When to stop, counted from the start."})
    settings: str = field(default="", metadata={"help": "Only these (a regular expression)."})
    compiled: bool = field(default=False, metadata={"help": "Also compiled steps, of one number."})


def rounds(
    steps: dict[str, Callable[[], object]],
    model: LanguageAdapterModel,
    clock: StepClock,
    repeats: int,
) -> dict[str, dict[str, object]]:
    """Name → seconds of each timed step, its peak of memory, and what went wrong."""
    found: dict[str, dict[str, object]] = {
        name: {"times": [], "peak_mb": None, "error": None} for name in steps
    }
    for repeat in range(repeats + 1):  # the first warms up
        for name, step in steps.items():
            row = found[name]
            if row["error"] or clock.is_over():
                continue

            # The Trainer's gradients would count as memory in use.
            model.zero_grad(set_to_none=True)
            try:
                if repeat == 0 and name.startswith("next"):
                    step()  # of which nothing is kept yet
                seconds, peak = clock.measure(step)
            except torch.cuda.OutOfMemoryError:
                row["error"] = "out of memory"
            except Exception as error:  # one step that fails must not end the others
                row["error"] = f"{type(error).__name__}: {error}"[:400]

            if row["error"]:
                # Now that no traceback holds its tensors.
                gc.collect()
                torch.cuda.empty_cache()
                continue

            if repeat > 0:
                row["times"].append(seconds)
                row["peak_mb"] = peak

    return found


def rows_of(
    found: dict[str, dict[str, object]], shape: BenchmarkShape, count: int, flops: float, peak
) -> list[dict[str, object]]:
    """A row of the result for each step; `peak` is that of the card, in TFLOP/s."""
    baseline = found[TRAINER]["times"]
    rows = []
    for name, one in found.items():
        row = {"shape": shape.name, "languages": count, "setting": name, "error": one["error"]}
        row |= {"peak_mb": one["peak_mb"], "repeats": len(one["times"])}
        if not one["times"] and not one["error"]:
            row["error"] = "not run"

        if one["times"]:
            seconds = statistics.median(one["times"])
            row |= {"seconds": seconds, "tokens_per_second": shape.tokens * count / seconds}
            if baseline:
                row["ratio"] = seconds / statistics.median(baseline)
            if peak:
                row["share_of_peak"] = flops / seconds / (peak * 1e12)
        rows.append(row)

    return rows


def cell(args: Arguments, shape: BenchmarkShape, model, count: int, end: float, peak) -> list:
    """The rows of one model with some of its languages."""
    languages = model.languages[:count]
    folder = Path(args.output).parent
    steps = BenchmarkSteps(shape, model, languages, args.device, folder)
    named = steps.by_name(args.settings)
    flops = flops_of_training(shape, model, steps.train)

    found = rounds(named, model, StepClock(args.device, end), args.repeats)
    if args.compiled:
        # Compilation may have taken all of the time; the steps that were compiled take little.
        clock = StepClock(args.device, end + AFTER_COMPILING)
        found |= rounds(steps.compiled(), model, clock, args.repeats)
    return rows_of(found, shape, count, flops, peak)


def main() -> None:
    args = parse_arguments(Arguments, description=__doc__)
    if args.compiled and (len(args.languages) > 1 or len(args.shapes) > 1):
        raise ConfigurationError(
            "Compiled steps change the model for all steps that follow. Found"
            f" `--languages {args.languages} --shapes {args.shapes}`. Pass one of each."
        )

    began = time.perf_counter()
    hardware = describe_device(args.device)
    libraries = (torch, transformers)
    result = {
        "command": written_command(),
        "arguments": vars(args),
        "hardware": hardware,
        "versions": {lib.__name__: lib.__version__ for lib in libraries}
        | {"hf_meta_adapters": __version__},
        "model_flops": FLOPS,
        "peak_mb": MEMORY,
        "rows": [],
    }

    peak = hardware.get("bf16_peak_tflops")
    print("| model | languages | step | s | / Trainer | tokens/s | of peak | MB |")
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    cells = [(count, SHAPES[name]) for count in sorted(args.languages) for name in args.shapes]
    total, left = args.seconds, sum(WARM_UP + count for count, _ in cells)
    models: dict[str, LanguageAdapterModel] = {}
    for count, shape in cells:
        keys = [f"x-l{number}" for number in range(count)]
        if shape.name not in models:
            models[shape.name] = shape.make(keys, args.device)
        model = models[shape.name]
        for key in keys:
            if key not in model.languages:
                model.add_language(key)
        model.to(args.device)

        # What is left, in proportion: the time of a step grows with its languages.
        now = time.perf_counter()
        end = now + (began + total - now) * (WARM_UP + count) / left
        left -= WARM_UP + count
        for row in cell(args, shape, model, count, end, peak):
            result["rows"].append(row)
            said = [row.get(name) for name in ("seconds", "ratio", "tokens_per_second")]
            said += [row.get("share_of_peak"), row["peak_mb"]]
            said = [row["error"] or "–" if one is None else f"{one:.4g}" for one in said]
            print("|", " | ".join([shape.name, str(count), str(row["setting"]), *said]), "|")

        # Written after every cell: what was measured survives a kill.
        write_text(args.output, json.dumps(result, indent=1))
        gc.collect()


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
