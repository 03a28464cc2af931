"""Does a run that is killed again and again end bitwise where the uninterrupted run ends?

A small causal model with an adapter for each of four languages trains on bundled verses in a
process of its own. It is killed by SIGKILL at random points, some of them while it writes a
checkpoint, and resumed each time. In the end θ, every φ, optimizer, schedule, random numbers, rows
seen and logs are compared with those of an undisturbed run.

    python recipes/soak.py --output recipes/results/soak_cpu.json    # see --help
"""

import gzip
import json
import multiprocessing
import os
import platform
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

import hf_meta_adapters as hma
from hf_meta_adapters.cli.recipe_arguments import parse_arguments

LANGUAGES = ["en", "fr", "ru", "sw"]
DATA = Path(__file__).parent / "data"
LENGTH = 48  # bytes of a row
OF_THE_CLOCK = (
    "examples_per_second",
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
)


@dataclass
class Arguments:
    """What can be set on the command line."""

    output: str = field(default="outputs/soak.json", metadata={"help": "Where the result goes."})
    kills: int = field(default=20, metadata={"help": "How often the run is killed."})
    kills_in_saves: int = field(
        default=8, metadata={"help": "How many of these while a checkpoint is written."}
    )
    steps: int = field(
        default=100, metadata={"help": "Optimizer steps of the run; a checkpoint every second one."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the points."})


class Report(transformers.TrainerCallback):
    """Tells the process that watches how many steps have been taken."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._connection.send(state.global_step)


def train(folder: str, steps: int, connection: Any) -> None:
    """The run itself: from the newest checkpoint, if there is one."""
    torch.set_num_threads(1)
    transformers.set_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": LENGTH}
    config = transformers.GPT2Config(vocab_size=256, bos_token_id=0, eos_token_id=0, **sizes)
    model = hma.get_language_model(
        transformers.GPT2LMHeadModel(config), hma.BottleneckConfig(bottleneck_size=8), LANGUAGES
    )
    rows = {}
    for key in LANGUAGES:
        text = gzip.decompress((DATA / key / "train.txt.gz").read_bytes())[: 200 * LENGTH]
        pieces = [
            list(text[start : start + LENGTH]) for start in range(0, len(text) - LENGTH + 1, LENGTH)
        ]
        rows[key] = [{"input_ids": piece, "labels": piece} for piece in pieces]
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True}
    saves = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 2, "logging_steps": 1}
    sizes = {
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "languages_per_step": 2,
        "warmup_steps": 5,
    }
    args = hma.MetaAdapterTrainingArguments(
        folder, **quiet, **saves, **sizes, fidelity_check_steps=10
    )
    trainer = hma.MetaAdapterTrainer(
        model, args, train_dataset=rows, callbacks=[Report(connection)]
    )
    trainer.train(resume_from_checkpoint=any(Path(folder).glob("checkpoint-*")))


def live(
    context: Any, folder: Path, steps: int, point: tuple[int, bool, float] | None = None
) -> dict | None:
    """One life of the run, to its end or to a point: after how many steps, whether in a save, seconds to wait."""
    mine, its = context.Pipe(duplex=False)
    process = context.Process(target=train, args=(str(folder), steps, its))
    process.start()
    its.close()
    step = None
    try:
        for _ in range(steps + 1 if point is None else point[0]):
            step = mine.recv()
    except EOFError:  # it is over
        process.join()
        if process.exitcode:
            raise SystemExit(
                f"The run must end by itself. Found exit code {process.exitcode} after step {step}."
            ) from None
        return None
    unfinished = folder / "_unfinished"
    while point[1] and process.is_alive() and not unfinished.exists():
        time.sleep(0.0002)
    time.sleep(point[2])
    process.kill()
    process.join()
    left = sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
    found = {"after_step": step, "in_a_save": unfinished.exists(), "checkpoints_left": left}
    return found if process.exitcode else None


def state(folder: Path, steps: int) -> dict[str, Any]:
    """What the last checkpoint of a run holds, file by file, without what the clock measures."""
    last = folder / f"checkpoint-{steps}"
    sealed = json.loads((last / "checkpoint.json").read_text())
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    logs = [
        {name: value for name, value in line.items() if name not in OF_THE_CLOCK}
        for line in history
    ]
    files = {
        name: value
        for name, value in sealed["files"].items()
        if name.endswith((".safetensors", ".pt", ".pth"))
    }
    return {**files, "rows seen": sealed["progress"], "logs": logs}


def main() -> None:
    args = parse_arguments(Arguments, description=__doc__)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hf_meta_adapters", "transformers"])
    draw = random.Random(args.seed)
    in_saves = draw.sample(range(args.kills), min(args.kills_in_saves, args.kills))
    killed: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        whole, disturbed = Path(name) / "whole", Path(name) / "disturbed"
        live(context, whole, args.steps)
        for number in range(args.kills):
            wait = draw.uniform(0, 0.03 if number in in_saves else 0.2)
            found = live(
                context, disturbed, args.steps, (draw.randint(2, 5), number in in_saves, wait)
            )
            if found is None:
                raise SystemExit(
                    f"The run was over after {len(killed)} of {args.kills} kills. Give it more"
                    " `--steps`."
                )
            killed.append(found)
            print(
                f"killed after step {found['after_step']}"
                + (", in a save" if found["in_a_save"] else "")
            )
        live(context, disturbed, args.steps)
        one, other = state(whole, args.steps), state(disturbed, args.steps)
    equal = {key: one.get(key) == other.get(key) for key in sorted({*one, *other})}
    result = {"arguments": vars(args), "command": sys.argv, "kills": killed, "equal": equal}
    result["kills_in_saves"] = sum(one["in_a_save"] for one in killed)
    result["hardware"] = {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "system": platform.system(),
    }
    result["versions"] = {
        library.__name__: library.__version__ for library in (hma, torch, transformers, peft)
    }
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    Path(args.output).write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"{sum(equal.values())} of {len(equal)} parts are bitwise equal after {len(killed)} kills"
    )
    if not all(equal.values()):
        raise SystemExit(
            "Both runs must end alike. Found differences in"
            f" {[key for key in equal if not equal[key]]}."
        )


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
