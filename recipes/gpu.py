"""Check, measure and study the package on a GPU, within a number of minutes.

Runs in this order: the tests that need a CUDA device, where tests are there (a clone); the
benchmark of the outer step, and its compiled step; then cells of studies, with the time that is
left. Every stage runs in processes of its own and is stopped at its limit; one that fails is
reported, and the others go on. Studies go on where they were when this is run again.

Needs:    a CUDA device with bfloat16, 80 GB for the largest steps; for the studies the package
          with its extra metrics, an encoder and labelled data (see --model and --data).
Takes:    --minutes. --dry_run true prints the plan with its times, and runs nothing.
Writes:   to --output_dir: gpu.json, gpu.log, benchmark_gpu.json, and a file for each study.
Command:  hf-meta-adapters run gpu --minutes 9
Override: --stages tests benchmark; --studies few_label_study:few_label_gpu --processes 12, see
          --help; --device cpu --studies few_label_study:few_label_tiny tries it without a GPU.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers

from hf_meta_adapters import __version__
from hf_meta_adapters.bundled.folders import recipes_folder
from hf_meta_adapters.cli import parse_arguments
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.study.device_report import describe_device
from hf_meta_adapters.study.timed_stages import StageResult, TimedStages

MARKS = ("mark.gpu", "ON_DEVICES")  # of test modules
STAGES = ("tests", "benchmark", "compiled", "studies")
REPORT_SECONDS = 40  # for the studies to write what they have
LEAST_SECONDS = 30  # a study with less does not begin: it would only start
START_SECONDS = 45  # of a benchmark: imports, models, and the step at which it stops


@dataclass
class Arguments:
    """What can be set on the command line."""

    minutes: float = field(default=9, metadata={"help": "For everything."})
    output_dir: str = field(default="outputs/gpu", metadata={"help": "Folder for the results."})
    device: str = field(default="cuda", metadata={"help": "cuda, or cpu to try the recipe."})
    dry_run: bool = field(default=False, metadata={"help": "Print the plan, and run nothing."})
    stages: list[str] = field(
        default_factory=lambda: list(STAGES), metadata={"help": f"Of {list(STAGES)}."}
    )
    tests: str = field(default="", metadata={"help": "Folder of the tests; default: the clone's."})
    test_minutes: float = field(default=2, metadata={"help": "At most, for the tests."})
    test_workers: int = field(default=8, metadata={"help": "Processes of the tests."})
    benchmark_seconds: float = field(default=75, metadata={"help": "--seconds of the benchmark."})
    shapes: list[str] = field(
        default_factory=lambda: ["encoder", "decoder"], metadata={"help": "Of the benchmark."}
    )
    languages: list[int] = field(
        default_factory=lambda: [3, 7, 14], metadata={"help": "Of the benchmark."}
    )
    compiled_seconds: float = field(default=90, metadata={"help": "At most, for compiled steps."})
    studies: list[str] = field(
        default_factory=lambda: [
            "few_label_study:few_label_gpu",
            "pretrained_study:pretrained_gpu",
        ],
        metadata={"help": "RECIPE:CONFIG, at the same time."},
    )
    shares: list[float] = field(
        default_factory=list, metadata={"help": "Of the processes, for each study; default: equal."}
    )
    processes: int = field(default=12, metadata={"help": "Cells at the same time, of all studies."})
    data: str = field(default="", metadata={"help": "Folder of labelled data, for the studies."})
    model: str = field(default="", metadata={"help": "Folder of the encoder, for the studies."})


def python(recipe: str, *words: object) -> list[str]:
    """The command of a recipe, which needs no console command."""
    return [sys.executable, str(recipes_folder() / f"{recipe}.py"), *map(str, words)]


def fixed_stages(args: Arguments) -> dict[str, tuple[list[str], float]]:
    """Name → command and limit of the stages before the studies."""
    tests = Path(args.tests or recipes_folder().parent / "tests")
    output = Path(args.output_dir)
    stages = {}
    if "tests" in args.stages and tests.is_dir():
        marked = []
        for path in sorted(tests.rglob("test_*.py")):
            text = path.read_text(encoding="utf-8")
            if any(mark in text for mark in MARKS):
                marked.append(path)

        # Libraries of other versions have warnings of their own.
        words = ["-v", "--tb", "short", "--durations", "15", "-W", "default", "--timeout", "90"]
        words += ["-m", "gpu", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
        words += ["-p", "no:benchmark"]  # where it is installed, it warns under xdist
        if args.test_workers > 1 and find_spec("xdist"):
            words += ["-n", str(args.test_workers), "--dist", "loadgroup"]
        command = [sys.executable, "-m", "pytest", *words, *map(str, marked)]
        stages["tests"] = command, 60 * args.test_minutes

    seconds, shapes = args.benchmark_seconds, args.shapes
    words = ["--device", args.device, "--output", output / "benchmark_gpu.json"]
    if "benchmark" in args.stages:
        several = ["--shapes", *shapes, "--languages", *args.languages, "--seconds", seconds]
        stages["benchmark"] = python("benchmark_gpu", *words, *several), seconds + START_SECONDS

    if "compiled" in args.stages:
        seconds = args.compiled_seconds
        words[-1] = output / "benchmark_gpu_compiled.json"
        one = ["--shapes", shapes[0], "--languages", min(args.languages), "--compiled", "true"]
        one += ["--settings", "^joint", "--seconds", seconds]
        stages["compiled"] = python("benchmark_gpu", *words, *one), seconds + START_SECONDS

    return stages


def study_command(args: Arguments, study: str) -> list[str]:
    """The command of a study, `RECIPE:CONFIG`, with its share of the processes."""
    recipe, _, config = study.partition(":")
    shares = dict(zip(args.studies, args.shares or [1.0] * len(args.studies), strict=True))
    processes = max(1, round(args.processes * shares[study] / sum(shares.values())))
    given = ["--config", config, "--processes", processes]
    given += ["--results", Path(args.output_dir) / f"{config}.json"]
    for name in ("data", "model"):
        if getattr(args, name):
            given += [f"--{name}", getattr(args, name)]

    return python(recipe, *given)


def check(args: Arguments) -> None:
    """Refuse what cannot work, before anything takes time."""
    wrong = [stage for stage in args.stages if stage not in STAGES]
    malformed = [study for study in args.studies if study.count(":") != 1]
    if wrong or malformed or len(args.shares) not in (0, len(args.studies)):
        raise ConfigurationError(
            f"Stages must be of {list(STAGES)}, studies RECIPE:CONFIG, and shares as many as"
            f" studies. Found `--stages {args.stages}`, `--studies {args.studies}` and `--shares"
            f" {args.shares}`. Use for example `--studies few_label_study:few_label_gpu`."
        )


def run_studies(args: Arguments, stages: TimedStages) -> None:
    """Cells of all studies at the same time, until the time is over; then a report of each."""
    limit = stages.left() - REPORT_SECONDS
    if limit < LEAST_SECONDS:
        for study in args.studies:
            stages.record(StageResult(study, "", limit, 0.0, 0, True, ["no time was left"]))
        return

    # At the same time: a study needs half a minute to start, in which it computes nothing.
    commands = {study: study_command(args, study) for study in args.studies}
    stages.run_together(commands, limit)
    reports = {
        f"{study}, report": [*command, "--report", "true"] for study, command in commands.items()
    }
    stages.run_together(reports, REPORT_SECONDS)


def main() -> int:
    args = parse_arguments(Arguments, description=__doc__)
    check(args)
    fixed = fixed_stages(args)
    rest = 60 * args.minutes - sum(limit for _, limit in fixed.values())

    print(f"Within {args.minutes:g} minutes, to {args.output_dir}:")
    for name, (_, limit) in fixed.items():
        print(f"  {name}, at most {limit:.0f} s")
    if "studies" in args.stages:
        print(f"  studies {args.studies}, {max(rest, 0):.0f} s or what is left")
    if args.dry_run:
        return 0

    hardware = describe_device(args.device)
    print(json.dumps(hardware), flush=True)
    versions = {lib.__name__: lib.__version__ for lib in (torch, transformers)}
    versions["hf_meta_adapters"] = __version__
    about = {"command": written_command(), "hardware": hardware, "versions": versions}

    stages = TimedStages(Path(args.output_dir), 60 * args.minutes, about)
    for name, (command, limit) in fixed.items():
        stages.run(name, command, min(limit, stages.left()))
    if "studies" in args.stages:
        run_studies(args, stages)

    # A study is meant to be stopped.
    may_stop = set(args.studies)
    failed = [
        one.name
        for one in stages.stages
        if one.returncode and not (one.stopped and one.name in may_stop)
    ]
    print(f"failed: {failed or 'nothing'}; see {args.output_dir}/gpu.json and gpu.log")
    return 1 if failed else 0


if __name__ == "__main__":
    # An end by a signal must end the stage at hand too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
