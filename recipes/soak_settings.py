"""Does a killed run end bitwise where the uninterrupted one ends, whatever its settings are?

As `soak.py`, for other settings than its own: θ and φ as LoRA over a frozen base, alternating
updates, the best model of an evaluation, SIGTERM with `enable_jit_checkpoint`, bfloat16 with
accumulated gradients, and copies of layer norms as adapters.

Needs:    nothing but the package, on a system with SIGKILL; `sigterm` needs transformers 5.
Takes:    minutes on one core.
Writes:   one JSON file. Ends with an error if two runs differ.
Command:  hf-meta-adapters run soak_settings --output soak_settings_cpu.json
Override: --settings alternating,copies --kills 2 --steps 10 for a short one, see --help.
"""

import json
import multiprocessing
import os
import platform
import tempfile
import zlib
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import NamedTuple

import peft
import torch
import transformers
from soak import LANGUAGES, LENGTH, Reporter, kill_repeatedly, live, read_rows, state

import hf_meta_adapters as hma
from hf_meta_adapters.cli import parse_arguments
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.results.files import write_text

LORA = {"target_modules": ["c_attn"], "fan_in_fan_out": True}
EVALUATION = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 16}


class Setting(NamedTuple):
    """What a run differs in from that of `soak.py`."""

    arguments: dict
    config: object = None  # of the adapters; a bottleneck by default
    shared: object = "all"
    signals: tuple[int, ...] = (SIGKILL,)  # in turn


SETTINGS = {
    "shared_lora": Setting({}, peft.LoraConfig(r=2, **LORA), peft.LoraConfig(r=4, **LORA)),
    "alternating": Setting({"update_order": "alternating", "lookahead": "per_language"}),
    "best_model": Setting(
        {**EVALUATION, "load_best_model_at_end": True, "save_total_limit": 1, "learning_rate": 0.05}
    ),
    "sigterm": Setting(
        {**EVALUATION, "enable_jit_checkpoint": True, "save_steps": 4},
        signals=(SIGTERM, SIGTERM, SIGKILL),
    ),
    "autocast": Setting({"bf16": True, "gradient_accumulation_steps": 2}),
    "copies": Setting({"save_total_limit": 1}, hma.ModuleCopyConfig("layer_norm")),
}


@dataclass
class Arguments:
    """What can be set on the command line."""

    output: str = field(
        default="outputs/soak_settings.json", metadata={"help": "File for the result."}
    )
    settings: str = field(
        default=",".join(SETTINGS), metadata={"help": "Some of them, separated by commas."}
    )
    kills: int = field(default=4, metadata={"help": "How often each run is killed."})
    kills_in_saves: int = field(default=2, metadata={"help": "How many of them in a save."})
    steps: int = field(default=24, metadata={"help": "Steps of each run."})
    seed: int = field(default=1, metadata={"help": "Seed of the points."})


def train(name: str, folder: str, steps: int, connection: Connection) -> None:
    """A run: from the newest checkpoint, if there is one."""
    setting = SETTINGS[name]
    torch.set_num_threads(1)
    transformers.set_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": LENGTH}
    config = transformers.GPT2Config(vocab_size=256, bos_token_id=0, eos_token_id=0, **sizes)
    base = transformers.GPT2LMHeadModel(config)

    adapter = setting.config or hma.BottleneckConfig(bottleneck_size=8)
    model = hma.get_language_model(base, adapter, LANGUAGES, shared=setting.shared)

    batches = {"per_device_train_batch_size": 4, "languages_per_step": 2, "warmup_steps": 5}
    saves = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 2, "logging_steps": 1}
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True}
    given = {**batches, **saves, **quiet, **setting.arguments}
    args = hma.MetaAdapterTrainingArguments(folder, max_steps=steps, **given)

    rows = {key: read_rows(key) for key in LANGUAGES}
    trainer = hma.MetaAdapterTrainer(
        model,
        args,
        train_dataset={key: several[:-20] for key, several in rows.items()},
        eval_dataset={key: several[-20:] for key, several in rows.items()},
        callbacks=[Reporter(connection)],
    )
    trainer.train(resume_from_checkpoint=any(Path(folder).glob("checkpoint-*")))


def bits(value: object) -> object:
    """A value with checksums in place of its tensors."""
    if isinstance(value, torch.Tensor):
        return (
            list(value.shape),
            zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().tobytes()),
        )
    if isinstance(value, dict):
        return {name: bits(entry) for name, entry in value.items()}
    return value


def content(folder: Path, steps: int) -> dict:
    """What two runs are compared by: the last checkpoint, and the best one."""
    last = json.loads((folder / f"checkpoint-{steps}" / "trainer_state.json").read_text())
    found = {"best score": (last["best_global_step"], last["best_metric"])}

    for which, step in (("", steps), ("best ", last["best_global_step"])):
        if step:
            found.update({which + name: part for name, part in state(folder, step).items()})
            # Not the bytes of the file: a pickle writes a name again that was read from another
            # one, so they depend on where a run was resumed.
            file = folder / f"checkpoint-{step}" / "optimizer.pt"
            found[f"{which}optimizer.pt"] = bits(torch.load(file, weights_only=True))

    return found


def soak(context, name: str, args: Arguments) -> dict:
    """The two runs of a setting, and their comparison."""
    run, setting = partial(train, name), SETTINGS[name]
    with tempfile.TemporaryDirectory() as place:
        undisturbed, disturbed = Path(place) / "whole", Path(place) / "disturbed"
        live(context, run, undisturbed, args.steps)
        kills = kill_repeatedly(context, run, disturbed, args, setting.signals)
        expected, reached = content(undisturbed, args.steps), content(disturbed, args.steps)

    parts = sorted({*expected, *reached})
    equal = {part: expected.get(part) == reached.get(part) for part in parts}
    print(f"{name}: {sum(equal.values())} of {len(equal)} parts are bitwise equal")
    return {"kills": kills, "equal": equal, "in_saves": sum(kill["in_a_save"] for kill in kills)}


def main() -> None:
    args = parse_arguments(Arguments, description=__doc__)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hf_meta_adapters.training.trainer"])

    runs = {name: soak(context, name, args) for name in args.settings.split(",")}
    hardware = {"machine": platform.machine(), "cpus": os.cpu_count(), "system": platform.system()}
    result = {
        "arguments": vars(args),
        "command": written_command(),
        "runs": runs,
        "hardware": hardware,
        "versions": {lib.__name__: lib.__version__ for lib in (hma, torch, transformers, peft)},
    }
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    write_text(args.output, json.dumps(result, indent=1))

    different = [name for name, run in runs.items() if not all(run["equal"].values())]
    if different:
        raise SystemExit(f"Both runs must end alike. Found differences in {different}.")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
