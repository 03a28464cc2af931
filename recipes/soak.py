"""Does a run that is killed again and again end bitwise where the uninterrupted run ends?

A small causal model with an adapter for each of four languages trains on bundled verses in a
process of its own. It is killed by SIGKILL at random points, some of them while it writes a
checkpoint, and resumed each time. In the end θ, every φ, optimizer, schedule, random numbers, rows
seen and logs are compared with those of an undisturbed run.

Needs:    nothing but the package, on a system with SIGKILL.
Takes:    minutes on one core.
Writes:   one JSON file. Ends with an error if the two runs differ.
Command:  hf-meta-adapters run soak --output soak_cpu.json
Override: --kills 3 --kills_in_saves 2 --steps 16 for a short one, see --help.
"""

import gzip
import json
import multiprocessing
import os
import platform
import random
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import NamedTuple

import peft
import torch
import transformers

import hf_meta_adapters as hma
from hf_meta_adapters.bundled.folders import verses_folder
from hf_meta_adapters.cli import parse_arguments
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.results.files import write_text

LANGUAGES = ["en", "fr", "ru", "sw"]
DATA = verses_folder()
LENGTH = 48  # bytes of a row
OF_THE_CLOCK = ("_per_second", "_runtime")  # endings of the names of logged values


@dataclass
class Arguments:
    """What can be set on the command line."""

    output: str = field(default="outputs/soak.json", metadata={"help": "File for the result."})
    kills: int = field(default=20, metadata={"help": "How often the run is killed."})
    kills_in_saves: int = field(default=8, metadata={"help": "How many of them in a save."})
    steps: int = field(default=100, metadata={"help": "Steps; a checkpoint every second one."})
    seed: int = field(default=0, metadata={"help": "Seed of the points."})


class Point(NamedTuple):
    """When a run is killed."""

    after_steps: int
    in_save: bool  # whether only while a checkpoint is written
    wait: float  # seconds from then on
    signal: int = SIGKILL  # after SIGTERM in a save, SIGKILL follows


class Reporter(transformers.TrainerCallback):
    """Tells the watching process how many steps have been taken."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def on_step_end(self, args, state, control, **_) -> None:
        self._connection.send(state.global_step)


def read_rows(language: str) -> list[dict]:
    """Verses as bytes, cut into rows."""
    text = gzip.decompress((DATA / language / "train.txt.gz").read_bytes())[: 200 * LENGTH]
    starts = range(0, len(text) - LENGTH + 1, LENGTH)
    pieces = [list(text[start : start + LENGTH]) for start in starts]

    return [{"input_ids": piece, "labels": piece} for piece in pieces]


def train(folder: str, steps: int, connection: Connection) -> None:
    """The run itself: from the newest checkpoint, if there is one."""
    torch.set_num_threads(1)
    transformers.set_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": LENGTH}
    config = transformers.GPT2Config(vocab_size=256, bos_token_id=0, eos_token_id=0, **sizes)
    base = transformers.GPT2LMHeadModel(config)
    model = hma.get_language_model(base, hma.BottleneckConfig(bottleneck_size=8), LANGUAGES)

    batches = {"per_device_train_batch_size": 4, "languages_per_step": 2, "warmup_steps": 5}
    saves = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 2, "logging_steps": 1}
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True}
    args = hma.MetaAdapterTrainingArguments(
        folder, max_steps=steps, fidelity_check_steps=10, **batches, **saves, **quiet
    )
    rows = {key: read_rows(key) for key in LANGUAGES}
    trainer = hma.MetaAdapterTrainer(
        model, args, train_dataset=rows, callbacks=[Reporter(connection)]
    )

    trainer.train(resume_from_checkpoint=any(Path(folder).glob("checkpoint-*")))


def live(context, run, folder: Path, steps: int, point: Point | None = None) -> dict | None:
    """One life of the run: to its end, or to a point, with a record of the kill."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(str(folder), steps, sender))
    process.start()
    sender.close()  # of this process; with it open, the end of the other would not be noticed

    step = None
    try:
        for _ in range(point.after_steps if point else steps + 1):
            step = receiver.recv()
    except EOFError:  # the run is over
        process.join()
        if process.exitcode:
            raise SystemExit(
                f"The run must end by itself. Found exit code {process.exitcode} after step {step}."
            ) from None
        return None

    # The Trainer writes a checkpoint into this folder, and renames it when it is whole.
    unfinished = folder / "_unfinished"
    if point.signal == SIGTERM:
        process.terminate()
    while point.in_save and process.is_alive() and not unfinished.exists():
        time.sleep(0.0002)

    if point.signal == SIGKILL or point.in_save:
        time.sleep(point.wait)
        process.kill()
    process.join()

    if (folder / f"checkpoint-{steps}").exists():  # it was over before the kill
        return None

    left = sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
    return {"after_step": step, "in_a_save": unfinished.exists(), "checkpoints_left": left}


def state(folder: Path, steps: int) -> dict:
    """The content of the last checkpoint, file by file, without what the clock measures."""
    last = folder / f"checkpoint-{steps}"
    seal = json.loads((last / "checkpoint.json").read_text())
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]

    kinds = (".safetensors", ".pt", ".pth")
    content = {name: digest for name, digest in seal["files"].items() if name.endswith(kinds)}

    content["rows seen"] = seal["progress"]
    content["logs"] = [
        {name: value for name, value in entry.items() if not name.endswith(OF_THE_CLOCK)}
        for entry in history
    ]
    return content


def kill_repeatedly(context, run, folder: Path, args: Arguments, signals=(SIGKILL,)) -> list[dict]:
    """The run, killed at random points until all kills are done; then to its end."""
    draw = random.Random(args.seed)
    in_saves = draw.sample(range(args.kills), min(args.kills_in_saves, args.kills))

    kills: list[dict] = []
    for number in range(args.kills):
        # A checkpoint is written in a few hundredths of a second.
        in_save = number in in_saves
        wait = draw.uniform(0, 0.03 if in_save else 0.2)
        point = Point(draw.randint(2, 5), in_save, wait, signals[number % len(signals)])
        kill = live(context, run, folder, args.steps, point)
        if kill is None:
            raise SystemExit(f"The run must outlive {args.kills} kills. Give it more `--steps`.")

        kills.append(kill)
        print(f"killed after step {kill['after_step']}" + ", in a save" * kill["in_a_save"])

    live(context, run, folder, args.steps)
    return kills


def main() -> None:
    args = parse_arguments(Arguments, description=__doc__)
    # A server that has imported everything forks each life, which then starts in no time.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hf_meta_adapters.training.trainer"])

    with tempfile.TemporaryDirectory() as name:
        undisturbed, disturbed = Path(name) / "whole", Path(name) / "disturbed"
        live(context, train, undisturbed, args.steps)
        kills = kill_repeatedly(context, train, disturbed, args)
        expected, reached = state(undisturbed, args.steps), state(disturbed, args.steps)

    parts = sorted({*expected, *reached})
    equal = {part: expected.get(part) == reached.get(part) for part in parts}
    hardware = {"machine": platform.machine(), "cpus": os.cpu_count(), "system": platform.system()}
    result = {
        "arguments": vars(args),
        "command": written_command(),
        "kills": kills,
        "equal": equal,
        "kills_in_saves": sum(kill["in_a_save"] for kill in kills),
        "hardware": hardware,
        "versions": {lib.__name__: lib.__version__ for lib in (hma, torch, transformers, peft)},
    }
    write_text(args.output, json.dumps(result, indent=1))

    print(f"{sum(equal.values())} of {len(equal)} parts are bitwise equal after {len(kills)} kills")
    different = [part for part in parts if not equal[part]]
    if different:
        raise SystemExit(f"Both runs must end alike. Found differences in {different}.")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
