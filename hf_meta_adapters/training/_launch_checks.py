"""Which ways of spreading a run over devices the outer step is right under; the others are refused before training."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from hf_meta_adapters.errors import ConfigurationError

_REFUSED = {
    "DEEPSPEED": (
        "DeepSpeed",
        "its engine owns the gradients, and takes them of one loss in each step",
    ),
    "MEGATRON_LM": ("Megatron-LM", "it has a training step and a model of its own"),
    "XLA": ("XLA devices", "sums over processes go through torch.distributed"),
    "TP": ("tensor, context or sequence parallelism", "processes share the work on one batch"),
}
_INSTEAD = (
    "Launch it with `--multi_gpu` (DDP), or with `--use_fsdp --fsdp_version 2` for models that do"
    " not fit."
)


def check_launch(deepspeed: Any) -> None:
    """Refuse DeepSpeed before a library that may not be installed is asked for it.

    Args:
        deepspeed: The argument of that name.

    Raises:
        ConfigurationError: If it was asked for.
    """
    if deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        _refuse("DEEPSPEED")


def check_distribution(args: Any, model: nn.Module, accelerator: Any) -> None:
    """Refuse what the outer step would be wrong under.

    Args:
        args: The arguments.
        model: The model, before it is prepared.
        accelerator: That of the Trainer.

    Raises:
        ConfigurationError: Naming it, why, and what to write instead.
    """
    kind = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type))
    if kind in _REFUSED:
        _refuse(kind)
    sizes = getattr(accelerator, "parallelism_config", None)
    if any((getattr(sizes, f"{name}_size", 1) or 1) > 1 for name in ("tp", "cp", "sp")):
        _refuse("TP")
    started = int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
    if started > 1 and args.world_size == 1:
        raise ConfigurationError(
            f"The processes of a launch must train together. Found {started} of them, each of which"
            " would train alone: there is no device that processes are put on by default. Write"
            " `use_cpu=True` to let them train on the CPU, or start one."
        )
    if len({str(parameter.device) for parameter in model.parameters()}) > 1:
        raise ConfigurationError(
            "All parameters must be on one device per process: the outer step moves them together."
            " Found several, as "
            f'`device_map="auto"` chooses them. Load the model without `device_map`. {_INSTEAD}'
        )
    if kind == "FSDP":
        _check_fsdp(args, accelerator.state.fsdp_plugin)


def _check_fsdp(args: Any, plugin: Any) -> None:
    if plugin.fsdp_version != 2:
        raise ConfigurationError(
            "Parameters can be sharded by FSDP2 only: FSDP1 flattens those of a layer into one"
            " tensor, where θ and φ cannot be told apart. Found version 1. Launch it with"
            " `--fsdp_version 2`; with transformers 5 `fsdp_config={'version': 2}` does as well."
        )
    if args.meta_gradient in ("exact", "forward_mode"):
        raise ConfigurationError(
            "Sharded parameters (FSDP2) are gathered outside of autograd, which thus takes no"
            " gradient of their "
            f'gradient. Found `meta_gradient="{args.meta_gradient}"`. Write'
            ' `meta_gradient="finite_difference"`, or '
            "replicate the model (`--multi_gpu`)."
        )
    if args.cpu_offload or type(plugin.cpu_offload).__name__ == "CPUOffloadPolicy":
        name = "cpu_offload" if args.cpu_offload else "fsdp_offload_params"
        raise ConfigurationError(
            "Sharded parameters must stay on their devices: the outer step moves them several"
            f" times a step. Found `{name}=True`. Leave it out; more processes make the parts"
            " smaller."
        )


def _refuse(kind: str) -> None:
    name, why = _REFUSED[kind]
    raise ConfigurationError(
        f"The outer step needs gradients of several losses at several θ in each step. Found {name}:"
        f" {why}. {_INSTEAD}"
    )
