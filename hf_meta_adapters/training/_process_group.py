"""The processes of a launch on CPUs find each other, and wait no longer than `ddp_timeout`."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import get_cpu_distributed_information, str_to_bool
from transformers import TrainingArguments

from hf_meta_adapters.errors import MetaAdapterError


def start_process_group(args: TrainingArguments) -> None:
    """Start the process group of a launch on CPUs with `ddp_timeout`.

    transformers passes that time on for accelerators alone: on CPUs, a process would wait half an
    hour for one that is stopped. It keeps the group that it finds.

    Args:
        args: The arguments, before transformers asks for devices.

    Raises:
        MetaAdapterError: If not all processes of the launch appear in time.
    """
    on_cpu = args.use_cpu or vars(args).get("no_cuda") or _is_set("ACCELERATE_USE_CPU")
    if not on_cpu or get_cpu_distributed_information().world_size == 1:
        return

    seconds = args.ddp_timeout
    try:
        PartialState(cpu=True, backend=args.ddp_backend, timeout=timedelta(seconds=seconds))
    except torch.distributed.DistError as error:
        reason = " ".join(str(error).split())
        raise MetaAdapterError(
            "All processes of a launch must start. Found that some did not within"
            f" `ddp_timeout={seconds}` seconds: {reason}. Check the output of each process, and"
            " start all of them again."
        ) from error


def _is_set(name: str) -> bool:
    return bool(str_to_bool(os.environ.get(name, "false") or "false"))
