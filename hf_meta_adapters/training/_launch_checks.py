"""Ways of spreading a run over devices under which the outer step would be wrong are refused."""

from __future__ import annotations

import os
from collections.abc import Mapping

from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import nn

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.training._unsupported_launch import (
    DEEPSPEED,
    INSTEAD,
    Unsupported,
    refusal,
)
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

_PARALLEL = Unsupported(
    "tensor, context or sequence parallelism", "processes share the work on one batch"
)
_HYBRID = Unsupported(
    "hybrid sharding (HSDP)",
    "gradients are summed within groups of processes, and again over the groups, which the sums of"
    " the outer step do not know",
)
_UNSUPPORTED: Mapping[DistributedType, Unsupported] = {
    DistributedType.DEEPSPEED: DEEPSPEED,
    DistributedType.MEGATRON_LM: Unsupported(
        "Megatron-LM", "it has a training step and a model of its own"
    ),
    DistributedType.XLA: Unsupported(
        "XLA devices", "sums over processes go through torch.distributed"
    ),
}


def check_distribution(
    args: MetaAdapterTrainingArguments, model: nn.Module, accelerator: Accelerator
) -> None:
    """Refuse ways of spreading a run under which the outer step would be wrong.

    Args:
        args: The arguments.
        model: The model, before it is prepared.
        accelerator: The Trainer's.

    Raises:
        ConfigurationError: Naming the way, the reason, and what to use instead.
    """
    distribution = DistributedType(accelerator.distributed_type)
    if distribution in _UNSUPPORTED:
        raise refusal(_UNSUPPORTED[distribution])

    # Older releases of Accelerate lack some of the sizes; an axis that is not used has size 1.
    sizes = accelerator.parallelism_config
    for axis in ("tp_size", "cp_size", "sp_size"):
        if (getattr(sizes, axis, None) or 1) > 1:
            raise refusal(_PARALLEL)

    axes = ("dp_replicate_size", "dp_shard_size")
    if all((getattr(sizes, axis, None) or 1) > 1 for axis in axes):
        raise refusal(_HYBRID)

    _check_processes(args)

    if len({str(parameter.device) for parameter in model.parameters()}) > 1:
        raise ConfigurationError(
            "All parameters must be on one device per process: the outer step moves them together."
            ' Found several devices, as `device_map="auto"` chooses them. Load the model without'
            f" `device_map`. {INSTEAD}"
        )

    if distribution == DistributedType.FSDP:
        _check_fsdp(args, accelerator.state.fsdp_plugin)


def _check_processes(args: MetaAdapterTrainingArguments) -> None:
    """Without a device, launched processes do not find each other, and each trains alone."""
    launched = 1
    if "LOCAL_RANK" in os.environ:
        launched = int(os.environ.get("WORLD_SIZE", "1"))

    if launched > 1 and args.world_size == 1:
        raise ConfigurationError(
            f"The processes of a launch must train together. Found {launched} of them, each of"
            " which would train alone: no device is assigned to processes by default. Pass"
            " `use_cpu=True` to let them train on the CPU, or start a single process."
        )


def _check_fsdp(args: MetaAdapterTrainingArguments, plugin: FullyShardedDataParallelPlugin) -> None:
    if plugin.fsdp_version != 2:
        raise ConfigurationError(
            "Parameters can be sharded by FSDP2 only: FSDP1 flattens those of a layer into one"
            " tensor, where θ and φ cannot be told apart. Found version 1. Launch it with"
            " `--fsdp_version 2`; with transformers 5 `fsdp_config={'version': 2}` works as well."
        )

    if args.meta_gradient in ("exact", "forward_mode"):
        raise ConfigurationError(
            "Sharded parameters (FSDP2) are gathered outside autograd, which therefore has no"
            f' second derivative of them. Found `meta_gradient="{args.meta_gradient}"`. Use'
            ' `meta_gradient="finite_difference"`, or replicate the model (`--multi_gpu`).'
        )

    # Accelerate turns the flag into a policy object of FSDP2.
    offloads = type(plugin.cpu_offload).__name__ == "CPUOffloadPolicy"
    if args.cpu_offload or offloads:
        name = "fsdp_offload_params"
        if args.cpu_offload:
            name = "cpu_offload"
        raise ConfigurationError(
            "Sharded parameters must stay on their devices: the outer step moves them several"
            f" times a step. Found `{name}=True`. Leave it out; more processes make the shards"
            " smaller."
        )
