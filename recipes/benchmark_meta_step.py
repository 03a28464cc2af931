"""What does an outer step cost next to a step of joint training, in time and in memory?

Settings run on one model and the same batches, interleaved; median times are ratios to the step of
`transformers.Trainer` on that model. A step ends with the update of θ by AdamW. Each peak of
memory, above the start of the second step, comes from a process of its own. Tokens are random. On
a CPU, malloc keeps what is freed, so that times do not depend on the order of the settings.

Needs:    nothing but the package; it runs on a GPU if there is one. Memory on a CPU needs Linux.
Takes:    the longer the more --languages: unrolled and paper settings grow with their square.
Writes:   one JSON file, and a table to the terminal.
Command:  hf-meta-adapters run benchmark_meta_step
              --output benchmark_meta_step_cpu.json
Override: --languages 3 7 --batch_size 32 --settings '^(joint|fast)$', see --help.
"""

import json
import platform
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import transformers

import hf_meta_adapters as hma
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.memory import keep_freed_memory, peak_in_own_process, peak_memory
from hf_meta_adapters.study.next_steps import NextSteps
from hf_meta_adapters.study.step_times import step_times
from hf_meta_adapters.study.theta_update import ThetaUpdate
from hf_meta_adapters.study.unrolled import unrolled_step

RATE = 0.01  # β, of the virtual step
LENGTH = 64  # tokens of a row
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
JOINT, UNROLLED = "joint, transformers.Trainer", "unrolled, dense head"
EVERY_4 = "fast, meta_every=4"
FAST_HALF, NEXT_HALF = "fast, half the languages", "next, half the languages"


class Setting(NamedTuple):
    """How `meta_step` is called."""

    sparse: bool  # whether the head is evaluated at labelled positions only
    meta_rows: float  # the share of the rows of meta batches that are used
    options: dict


FAST, PAPER = {"preset": "fast"}, {"preset": "paper"}
DRAWN = {**FAST, "lookahead": "per_language", "meta_languages_per_step": 2}
SETTINGS = {
    "fast, dense head": Setting(False, 1.0, FAST),
    "fast": Setting(True, 1.0, FAST),
    "fast, half the meta rows": Setting(True, 0.5, FAST),
    "fast, half the rows": Setting(True, 0.5, FAST | {"mixed_rows": 0.5}),
    "fast, a quarter of the rows": Setting(True, 0.25, FAST | {"mixed_rows": 0.25}),
    FAST_HALF: Setting(True, 1.0, FAST | {"mixed_languages": 0.5}),
    "fast, one pass": Setting(True, 1.0, FAST | {"languages_per_pass": 99}),
    "drawn": Setting(True, 1.0, DRAWN),
    "default": Setting(True, 1.0, {}),
    "paper, dense head": Setting(False, 1.0, PAPER),
    "paper": Setting(True, 1.0, PAPER),
}

NEXT = {
    "next": {},
    "next, half the rows": {"mixed_rows": 0.5},
    "next, a quarter of the rows": {"mixed_rows": 0.25},
    NEXT_HALF: {"mixed_languages": 0.5},
}
"""The steps that look ahead to the next one → their options."""

FOUR = (EVERY_4, FAST_HALF, NEXT_HALF)
"""What differs from step to step, and is measured over four of them: the draws with the seeds 0 to
3 are of 1, 1, 2, 2 of 3 languages, of 3, 3, 4, 4 of 7, and of 7 of 14."""


@dataclass
class Arguments:
    """What can be set on the command line."""

    output: str = field(default="outputs/benchmark_meta_step.json", metadata={"help": "Result."})
    languages: list[int] = field(default_factory=lambda: [3, 7, 14], metadata={"help": "Numbers."})
    batch_size: int = field(default=8, metadata={"help": "Rows per language and role."})
    hidden_size: int = field(default=256, metadata={"help": "Width of the four layers."})
    bottleneck: int = field(default=128, metadata={"help": "Width of the adapters."})
    vocabulary: int = field(default=8000, metadata={"help": "Size of the vocabulary."})
    repeats: int = field(default=5, metadata={"help": "Steps of each; of slow ones, one."})
    settings: str = field(default="", metadata={"help": "Only these (a regular expression)."})
    peak_of: str | None = field(default=None, metadata={"help": "Only print its peak of memory."})


class Steps:
    """The steps that are compared, on one model and the same batches."""

    def __init__(self, args: Arguments, count: int) -> None:
        transformers.set_seed(0)
        width, heads = args.hidden_size, max(1, args.hidden_size // 64)
        sizes = {"vocab_size": args.vocabulary, "max_position_embeddings": LENGTH + 2}
        sizes |= {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 4}
        config = transformers.XLMRobertaConfig(num_attention_heads=heads, **sizes)

        base = transformers.XLMRobertaForMaskedLM(config).to(DEVICE)
        languages = [f"x-l{number}" for number in range(count)]
        adapter = hma.BottleneckConfig(bottleneck_size=args.bottleneck)
        self.model = hma.get_language_model(base, adapter, languages)
        self.head = hma.RoutedLoss(self.model, hma.SparseHead(self.model, required=True))

        self.update = ThetaUpdate(self.model)

        # The step to compare with: gradients of one batch a language, accumulated.
        training = transformers.TrainingArguments(Path(args.output).parent, report_to="none")
        self.trainer = transformers.Trainer(self.model, training)
        self.trainer.current_gradient_accumulation_steps = count

        self.train = {key: self.batch(args) for key in languages}
        self.meta = {key: self.batch(args) for key in languages}

    def batch(self, args: Arguments) -> dict[str, torch.Tensor]:
        words = torch.randint(5, args.vocabulary, (args.batch_size, LENGTH)).to(DEVICE)
        unlabelled = torch.rand(words.shape).to(DEVICE) > 0.15
        return {"input_ids": words, "labels": words.masked_fill(unlabelled, -100)}

    def trainer_step(self) -> None:
        for key, batch in self.train.items():
            self.trainer.training_step(self.model, {"language": key, **batch})
        self.update()

    def joint_step(self, size: int = 1) -> None:
        how = {"loss_function": self.head, "languages_per_pass": size}
        self.update(hma.joint_step(self.model, self.train, **how).shared)

    def unrolled_step(self) -> None:
        unrolled_step(self.model, self.train, self.meta, inner_learning_rate=RATE)
        self.update()

    def meta_step(self, setting: Setting, seed: int = 0) -> None:
        meta = {}
        for key, batch in self.meta.items():
            meta[key] = {n: t[: round(setting.meta_rows * len(t))] for n, t in batch.items()}

        options = {"inner_learning_rate": RATE, "train_gradients": False, **setting.options}
        options["loss_function"] = self.head if setting.sparse else None
        step = hma.meta_step(self.model, self.train, meta, seed=seed, **options)
        self.update(step.shared)

    def by_name(self, pattern: str) -> dict[str, Callable]:
        steps = {JOINT: self.trainer_step, "joint": self.joint_step}
        steps["joint, one pass"] = lambda: self.joint_step(99)
        if len(self.train) < 9:  # the graphs need 20 GB at 14 languages
            steps[UNROLLED] = self.unrolled_step

        for name, setting in SETTINGS.items():
            # A default, because a closure would see the setting of the last round.
            steps[name] = lambda seed=0, setting=setting: self.meta_step(setting, seed)
        steps[EVERY_4] = lambda seed: self.joint_step() if seed else steps["fast"]()
        for name, options in NEXT.items():
            steps[name] = NextSteps(self.model, self.train, self.head, **options)
        steps |= {name: partial(four_steps, steps[name]) for name in FOUR}
        return {n: step for n, step in steps.items() if n == JOINT or re.search(pattern, n)}


def four_steps(step: Callable) -> None:
    for seed in range(4):
        step(seed)


def times(args: Arguments, count: int) -> dict[str, float]:
    """Name → median seconds of a step."""
    steps = Steps(args, count).by_name(args.settings)
    long = [name for name in steps if name.startswith(("paper", "unrolled"))]
    seconds = step_times(steps, args.repeats, long=long, title=f"{count} languages")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {name: time / 4 if name in FOUR else time for name, time in medians.items()}


def main() -> None:
    (args,) = transformers.HfArgumentParser(Arguments).parse_args_into_dataclasses()
    if args.peak_of:
        step = Steps(args, args.languages[0]).by_name(args.settings)[args.peak_of]
        step()  # allocates what stays
        print(peak_memory(step))
        return

    keep_freed_memory()
    result = {"arguments": vars(args), "command": written_command(), "rows": []}
    result["hardware"] = torch.cuda.get_device_name() if CUDA else f"{platform.machine()}, one core"
    result["versions"] = {lib.__name__: lib.__version__ for lib in (hma, torch, transformers)}

    print("| languages | step | time / joint | peak MB above start |\n|---:|---|---:|---:|")
    for count in args.languages:
        for name, seconds in (medians := times(args, count)).items():
            peak = peak_in_own_process("--languages", str(count), "--peak_of", name)
            row = {"languages": count, "setting": name, "seconds": seconds, "peak_mb": peak}
            result["rows"].append(row | {"ratio": seconds / medians[JOINT]})

            # Written after every row: what was measured survives a kill.
            write_text(args.output, json.dumps(result, indent=1))
            print(f"| {count} | {name} | {seconds / medians[JOINT]:.2f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    main()
