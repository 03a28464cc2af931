"""What does training cost around its steps: imports, start-up, batches, checkpoints?

Rows of 8 to 16 random tokens are written to disk for each language and mapped into memory. Each
arrangement of the data starts in a process of its own, from the construction of the Trainer to its
first step, and then takes a few steps. Times are processor time of one core. Each import has an
interpreter of its own, and they take turns; so do the batches that are loaded with and without
roles, and the checkpoints and what `torch.save` writes of the same state.

Needs:    Linux, for memory; 1.1 GB of disk for ten million rows.
Takes:    ten minutes on one core.
Writes:   one JSON file, and a line to the terminal for each part.
Command:  hf-meta-adapters run benchmark_around_step --output benchmark_around_step_cpu.json
Override: --languages 3 --rows 20000, see --help.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import torch
import transformers

import hf_meta_adapters as hma
from hf_meta_adapters.cli import parse_arguments
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.around_step import ARRANGEMENTS, AroundStep
from hf_meta_adapters.study.device_report import describe_device
from hf_meta_adapters.study.memory import printed_in_own_process
from hf_meta_adapters.study.token_tables import token_table

TRANSFORMERS = "from transformers import Trainer, TrainingArguments"
OURS = "from hf_meta_adapters import MetaAdapterTrainer, MetaAdapterTrainingArguments"
IMPORTS = {
    "torch": "import torch",
    "transformers.Trainer": TRANSFORMERS,
    "transformers.Trainer, datasets, peft": f"{TRANSFORMERS}; import datasets, peft",
    "hf_meta_adapters": "import hf_meta_adapters",
    "MetaAdapterTrainer, get_language_model": f"{OURS}, get_language_model, BottleneckConfig",
}
CHECKPOINT = "checkpoint"
TIMED = "import time; began = time.process_time(); {}; print(time.process_time() - began)"


@dataclass
class Arguments:
    """What can be set on the command line."""

    output: str = field(default="outputs/benchmark_around_step.json", metadata={"help": "Result."})
    languages: int = field(default=10, metadata={"help": "Number."})
    rows: int = field(default=1_000_000, metadata={"help": "Rows of each language."})
    batch_size: int = field(default=8, metadata={"help": "Rows per language and role."})
    hidden_size: int = field(default=256, metadata={"help": "Width of the four layers."})
    vocabulary: int = field(default=8000, metadata={"help": "Size of the vocabulary."})
    steps: int = field(default=6, metadata={"help": "Steps of each arrangement."})
    repeats: int = field(default=3, metadata={"help": "Rounds of imports."})
    part: str | None = field(default=None, metadata={"help": "Only this, on files in --folder."})
    folder: str | None = field(default=None, metadata={"help": "Where the rows are, for --part."})


def imports(repeats: int) -> list[dict]:
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(repeats):
        for name, statement in IMPORTS.items():
            command = [sys.executable, "-c", TIMED.format(statement)]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            seconds[name].append(float(run.stdout.split()[-1]))

    return [{"import": name, "seconds": statistics.median(each)} for name, each in seconds.items()]


def main() -> None:
    args = parse_arguments(Arguments, description=__doc__)
    keys = [f"x-l{number}" for number in range(args.languages)]
    if args.part:
        files = {key: str(Path(args.folder) / f"{key}.arrow") for key in keys}
        data = {key: datasets.Dataset.from_file(file) for key, file in files.items()}
        sizes = (args.hidden_size, args.vocabulary, args.batch_size, args.steps)
        with tempfile.TemporaryDirectory() as folder:
            around = AroundStep(data, Path(folder), *sizes)
            row = around.checkpoints() if args.part == CHECKPOINT else around.start(args.part)
        print(json.dumps(row))
        return

    result = {"command": written_command(), "arguments": vars(args)}
    result["hardware"] = describe_device("cpu") | {"threads": torch.get_num_threads()}
    libraries = (hma, torch, transformers, datasets)
    result["versions"] = {lib.__name__: lib.__version__ for lib in libraries}
    result |= {"imports": imports(args.repeats), "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed, key in enumerate(keys):
            file = Path(folder) / f"{key}.arrow"
            token_table(file, args.rows, vocabulary=args.vocabulary, seed=seed)
        for part in (*ARRANGEMENTS, CHECKPOINT):
            printed = printed_in_own_process("--part", part, "--folder", folder)
            result["rows"].append(json.loads(printed.splitlines()[-1]))
            print(result["rows"][-1], flush=True)

            # Written after every part: what was measured survives a kill.
            write_text(args.output, json.dumps(result, indent=1))


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    main()
