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
Override: --languages 3 --rows 20000, see --help; --profile true adds the operations of a meta step.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import torch
import transformers

import hf_meta_adapters as hma
from hf_meta_adapters.cli import parse_arguments
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.device_report import describe_device
from hf_meta_adapters.study.memory import MemoryPeaks, printed_in_own_process
from hf_meta_adapters.study.token_tables import padded, token_table
from hf_meta_adapters.study.training_clock import TrainingClock

HELD_OUT = 0.1  # of the rows, where a user gives roles
TRANSFORMERS = "from transformers import Trainer, TrainingArguments"
OURS = "from hf_meta_adapters import MetaAdapterTrainer, MetaAdapterTrainingArguments"
IMPORTS = {
    "torch": "import torch",
    "transformers.Trainer": TRANSFORMERS,
    "transformers.Trainer, datasets, peft": f"{TRANSFORMERS}; import datasets, peft",
    "hf_meta_adapters": "import hf_meta_adapters",
    "MetaAdapterTrainer, get_language_model": f"{OURS}, get_language_model, BottleneckConfig",
}
PLAIN, JOINT = "transformers.Trainer", "joint, no roles"
GIVEN, SPLIT = "fast, roles given", "fast, roles split off"
ARRANGEMENTS = (PLAIN, JOINT, GIVEN, SPLIT)
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
    profile: bool = field(default=False, metadata={"help": "Also the operations of a meta step."})
    part: str | None = field(default=None, metadata={"help": "Only this, on files in --folder."})
    folder: str | None = field(default=None, metadata={"help": "Where the rows are, for --part."})


def trainer_of(args: Arguments, arrangement: str, data: dict, folder: str, **options):
    """The Trainer of an arrangement of the data, with a model of its own."""
    clock = options.pop("clock", None)
    given = {"max_steps": args.steps, "per_device_train_batch_size": args.batch_size}
    given |= {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no"}
    given |= {"logging_strategy": "no", "save_total_limit": 1, **options}
    keywords = {"data_collator": padded, "callbacks": [clock] if clock else None}
    if arrangement == PLAIN:
        given["per_device_train_batch_size"] *= args.languages
        arguments = transformers.TrainingArguments(folder, **given)
        rows = datasets.concatenate_datasets(list(data.values()))
        return transformers.Trainer(base_model(args), arguments, train_dataset=rows, **keywords)

    given |= {"adapter_update": "train"} if arrangement == JOINT else {"preset": "fast"}
    arguments = hma.MetaAdapterTrainingArguments(folder, **given)
    if arrangement == GIVEN:
        held_out = round(HELD_OUT * args.rows)
        parts = dict.fromkeys(data, (held_out, args.rows))
        keywords["meta_dataset"] = {key: rows.select(range(held_out)) for key, rows in data.items()}
        data = {key: rows.select(range(*parts[key])) for key, rows in data.items()}

    adapter = hma.BottleneckConfig(bottleneck_size=max(2, args.hidden_size // 2))
    model = hma.get_language_model(base_model(args), adapter, list(data))
    return hma.MetaAdapterTrainer(model, arguments, train_dataset=data, **keywords)


def base_model(args: Arguments) -> transformers.PreTrainedModel:
    transformers.set_seed(0)
    sizes = {"hidden_size": args.hidden_size, "intermediate_size": 4 * args.hidden_size}
    config = transformers.XLMRobertaConfig(
        **sizes,
        num_hidden_layers=4,
        num_attention_heads=max(1, args.hidden_size // 64),
        vocab_size=args.vocabulary,
        max_position_embeddings=66,
    )
    return transformers.XLMRobertaForMaskedLM(config)


def start(args: Arguments, arrangement: str, data: dict, folder: str) -> dict:
    """Seconds and memory up to the first step, and the seconds of those that follow."""
    base_model(args)  # what transformers imports with its first model
    peaks, found = MemoryPeaks(), {}
    clock = TrainingClock(at_first_step=lambda: found.update(peaks.stop()))
    began, wall = time.process_time(), time.perf_counter()
    trainer = trainer_of(args, arrangement, data, folder, clock=clock)
    built, built_wall = time.process_time(), time.perf_counter()
    trainer.train()

    row = {"part": arrangement, "start_seconds": clock.first_step - began}
    row |= {"construction_seconds": built - began, "construction_wall": built_wall - wall}
    row |= {f"{name}_mb": value for name, value in found.items()}
    batch, step = statistics.median(clock.batches), statistics.median(clock.steps[1:])
    row |= {"batch_seconds": batch, "step_seconds": step, "batch_share": batch / (batch + step)}
    if arrangement == SPLIT:
        row["loading"] = compare_loading(args, trainer, data, folder)
    return row


def compare_loading(args: Arguments, trainer, data: dict, folder: str) -> dict[str, float]:
    """Microseconds of a row, loaded from data with roles and from data without, in turns."""
    plain = trainer_of(args, JOINT, data, folder)
    loaders = {"with roles": (iter(trainer.get_train_dataloader()), 2)}
    loaders["without roles"] = (iter(plain.get_train_dataloader()), 1)
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for repeat in range(8 * args.repeats):
        for name, (batches, roles) in loaders.items():
            began = time.process_time()
            next(batches)
            if repeat:
                rows = args.languages * args.batch_size * roles
                seconds[name].append(1e6 * (time.process_time() - began) / rows)

    return {name: statistics.median(values) for name, values in seconds.items()}


def checkpoints(args: Arguments, data: dict, folder: str) -> dict:
    """Seconds of a checkpoint, of `torch.save`, of resuming, and before an evaluation's model."""
    saved, file = [], Path(folder) / "state.pt"
    data = {key: rows.select(range(min(2000, args.rows))) for key, rows in data.items()}

    def save() -> None:
        state = {"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}
        saved.append(seconds_of(lambda: torch.save(state, file)))

    clock, again = TrainingClock(after_saving=save), TrainingClock()
    options = {"save_strategy": "steps", "save_steps": 1}
    trainer = trainer_of(args, SPLIT, data, folder, clock=clock, **options)
    trainer.train()

    options["max_steps"] = args.steps + 1
    resumed = trainer_of(args, SPLIT, data, folder, clock=again, **options)
    began = time.process_time()
    resumed.train(resume_from_checkpoint=True)

    first = []
    embeddings = resumed.model.base_model.get_input_embeddings()
    embeddings.register_forward_pre_hook(lambda *_: first.append(time.process_time()))
    asked = time.process_time()
    resumed.evaluate({key: rows.select(range(64)) for key, rows in data.items()})

    row = {"part": CHECKPOINT, "step_seconds": statistics.median(clock.steps[1:])}
    row["save_seconds"] = statistics.median(clock.checkpoints[1:])
    row["torch_save_seconds"] = statistics.median(saved[1:])
    row["torch_load_seconds"] = seconds_of(lambda: torch.load(file))
    row |= {"resume_seconds": again.first_step - began, "evaluation_start": first[0] - asked}
    row["evaluation_seconds"] = time.process_time() - asked
    return row


def seconds_of(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


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
        with tempfile.TemporaryDirectory() as folder:
            if args.part == CHECKPOINT:
                row = checkpoints(args, data, folder)
            else:
                row = start(args, args.part, data, folder)
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
