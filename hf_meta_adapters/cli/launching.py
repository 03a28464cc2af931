"""`accelerate launch` as `hf-meta-adapters run` calls it: with the defaults of this machine.

Left to itself, it warns about each option that was not given, and gives a process one thread even
where nothing but the CPU computes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate.commands.config import default_config_file
from accelerate.commands.launch import launch_command, launch_command_parser

__all__ = ["launch", "with_defaults"]

_KINDS = ("multi_gpu", "tpu", "use_deepspeed", "use_fsdp", "use_megatron_lm")
"""The options that say what kind of launch it is."""


def launch(words: Sequence[str] | None = None) -> None:
    """Run a program by `accelerate launch`, in this process's place until it ends.

    Args:
        words: The options of `accelerate launch`, the program, and its arguments; by default the
            command line of this process.
    """
    args = launch_command_parser().parse_args(words)

    # A configuration, given or written by `accelerate config`, has all the answers.
    if args.config_file is None and not Path(default_config_file).is_file():
        with_defaults(args, _accelerators())
    launch_command(args)


def with_defaults(args: argparse.Namespace, accelerators: int) -> None:
    """Give values to the options that were not given, where there is but one that makes sense.

    They are those of `accelerate launch` for a single process. Without an accelerator, the
    processes share all cores, as they do in a program that is started by `python`; the variable
    OMP_NUM_THREADS and `--num_cpu_threads_per_process` say otherwise.

    Args:
        args: The options; changed in place.
        accelerators: How many GPUs, or the like, PyTorch finds.
    """
    defaults = {"num_machines": 1, "mixed_precision": "no", "dynamo_backend": "no"}
    # Several devices are used by several processes: accelerate says so. How many processes several
    # machines have, only their user knows.
    is_plain = not any(getattr(args, kind, False) for kind in _KINDS)
    if accelerators <= 1 and is_plain and args.num_machines in (None, 1):
        defaults["num_processes"] = 1

    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)

    is_given = args.num_cpu_threads_per_process is not None or "OMP_NUM_THREADS" in os.environ
    if not accelerators and not is_given:
        here = max(1, (args.num_processes or 1) // args.num_machines)
        args.num_cpu_threads_per_process = max(1, torch.get_num_threads() // here)


def _accelerators() -> int:
    if not torch.accelerator.is_available():
        return 0
    return torch.accelerator.device_count()


if __name__ == "__main__":
    launch()
