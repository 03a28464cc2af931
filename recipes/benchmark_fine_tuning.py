"""What does an outer step cost in fine-tuning, where no head over the vocabulary dominates?

Times steps of a token classifier with the shape of a small pretrained encoder (12 layers of 384
units, 71,933 pieces) and random weights. Every label counts, so that no head can be sparse: what
the outer step costs is its passes. Steps take turns, and their medians of processor time are ratios
to the step of `transformers.Trainer` in the same run. Tokens and labels are random.

Needs:    nothing but the package; a CPU.
Takes:    six minutes on one core.
Writes:   one JSON file, and a table to the terminal.
Command:  hf-meta-adapters run benchmark_fine_tuning --output benchmark_fine_tuning_cpu.json
Override: --languages 3 --repeats 5 --settings '^(joint|fast)$', see --help; --profile true adds the
          operations on which each step spends most time, and takes as long again.
"""

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers

from hf_meta_adapters import __version__
from hf_meta_adapters.cli import parse_arguments
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.benchmark_shapes import SHAPES
from hf_meta_adapters.study.benchmark_steps import TRAINER, BenchmarkSteps
from hf_meta_adapters.study.device_report import describe_device
from hf_meta_adapters.study.step_profile import profile_step
from hf_meta_adapters.study.step_times import step_times


@dataclass
class Arguments:
    """What can be set on the command line."""

    output: str = field(default="outputs/benchmark_fine_tuning.json", metadata={"help": "Result."})
    shape: str = field(default="token_classifier", metadata={"help": f"Of {list(SHAPES)}."})
    languages: list[int] = field(default_factory=lambda: [3, 7], metadata={"help": "Numbers."})
    repeats: int = field(default=3, metadata={"help": "Timed steps of each, after one."})
    settings: str = field(
        default="^(joint|fast|next|paper)$", metadata={"help": "Only these (a regular expression)."}
    )
    profile: bool = field(default=False, metadata={"help": "Also the operations of each step."})


def main() -> None:
    args = parse_arguments(Arguments, description=__doc__)
    shape = SHAPES[args.shape]
    keys = [f"x-l{number}" for number in range(max(args.languages))]
    model = shape.make(keys, "cpu")

    libraries = (torch, transformers)
    result = {
        "command": written_command(),
        "arguments": vars(args),
        "hardware": describe_device("cpu") | {"threads": torch.get_num_threads()},
        "versions": {lib.__name__: lib.__version__ for lib in libraries}
        | {"hf_meta_adapters": __version__},
        "model": shape.name,
        "rows_and_tokens": [shape.rows, shape.length],
        "rows": [],
    }

    print("| languages | step | s | / Trainer |\n|---:|---|---:|---:|")
    for count in args.languages:
        benchmark = BenchmarkSteps(shape, model, keys[:count], "cpu", Path(args.output).parent)
        steps = benchmark.by_name(args.settings)
        seconds_of = step_times(steps, args.repeats, title=f"{count} languages")
        medians = {name: statistics.median(several) for name, several in seconds_of.items()}
        for name, seconds in medians.items():
            row = {"languages": count, "setting": name, "seconds": seconds}
            row["ratio"] = seconds / medians[TRAINER]
            print(f"| {count} | {name} | {seconds:.2f} | {row['ratio']:.2f} |", flush=True)
            if args.profile:
                found = profile_step(steps[name], repeats=1, warm_up=0)
                row["profile"] = found.to_dict()
                print(f"\n{found.to_markdown()}\n")
            result["rows"].append(row)

        # Written after every number of languages: what was measured survives a kill.
        write_text(args.output, json.dumps(result, indent=1))


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    main()
