"""Weights that are not finite are refused before training, and stop it before a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import TrainingArguments

from hf_meta_adapters.errors import HubError, NonFiniteLossError
from hf_meta_adapters.meta.vectors import local
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.training._checkpoint_folders import last_checkpoint
from hf_meta_adapters.training._optimizer_groups import unwrapped

_NAMED = 3


def check_weights(model: LanguageAdapterModel, source: str | Path | None = None) -> None:
    """Check that θ and every φ_l are finite.

    Args:
        model: The model.
        source: Where they were read from, for the message.

    Raises:
        HubError: Naming the first ones that are not.
    """
    parameters = {**model.shared_parameters()}
    for language in model.languages:
        parameters.update(model.language_parameters(language))

    # The first loss would be NaN as well, but nothing would then point to the weights.
    bad = []
    for name, parameter in parameters.items():
        if not bool(torch.isfinite(parameter.detach()).all()):
            bad.append(name)
    if not bad:
        return

    where = "in the model"
    if source is not None:
        where = f"in {source}"

    raise HubError(
        f"Weights must be finite before training. Found NaN or infinity {where} in {_listed(bad)}."
        " Load an earlier checkpoint, or create the adapter anew."
    )


def check_trained(
    model: LanguageAdapterModel,
    optimizer: torch.optim.Optimizer,
    steps: int,
    args: TrainingArguments,
) -> None:
    """Stop a run whose weights or optimizer states are not finite. All processes call it together.

    Args:
        model: The model, whole or sharded.
        optimizer: Its optimizer.
        steps: The number of optimizer steps taken.
        args: The arguments of the run.

    Raises:
        NonFiniteLossError: Naming parameters, languages, the step and the last checkpoint, the same
            on all processes.
    """
    owners = _owners(model)
    states = unwrapped(optimizer).state
    held = [[parameter, *_moments(states.get(parameter, {}))] for _, _, parameter in owners]

    # One number, and one transfer from the device, in the good case.
    everything = [tensor for tensors in held for tensor in tensors]
    if not _together(_bad([everything], args), args).any():
        return

    weights = _together(_bad([tensors[:1] for tensors in held], args), args).tolist()
    moments = _together(_bad([tensors[1:] for tensors in held], args), args).tolist()
    found = []
    for owner in dict.fromkeys(owner for owner, _, _ in owners):
        for bad, what in ((weights, owner), (moments, f"the optimizer's state of {owner}")):
            names = [
                name
                for (of, name, _), count in zip(owners, bad, strict=True)
                if of == owner and count
            ]
            if names:
                found.append(f"{what} ({_listed(names)})")

    raise NonFiniteLossError(
        f"Weights must stay finite. Found NaN or infinity after {steps} steps in"
        f" {', in '.join(found)}. No checkpoint was written of them."
        f" {last_checkpoint(Path(str(args.output_dir)))} Lower `learning_rate` or"
        " `adapter_learning_rate`, or set `max_grad_norm`, and resume."
    )


def _owners(model: LanguageAdapterModel) -> list[tuple[str, str, Tensor]]:
    """Every parameter that is trained, once: its owner, its name, and itself."""
    found: dict[int, tuple[str, str, Tensor]] = {}
    for name, parameter in model.shared_parameters().items():
        found[id(parameter)] = ("the shared weights", name, parameter)

    for language in model.languages:
        for name, parameter in model.language_parameters(language).items():
            owner = f"the adapter of {language!r}"
            if id(parameter) in found:
                owner = "the adapter of several languages"
            found[id(parameter)] = (owner, name, parameter)

    return list(found.values())


def _moments(state: dict[str, object]) -> Iterator[Tensor]:
    """The tensors of an optimizer's state of one parameter."""
    for entry in state.values():
        # Scalars are counters and bounds, and a bound may begin at infinity.
        if isinstance(entry, Tensor) and entry.is_floating_point() and entry.dim() > 0:
            yield entry


@torch.no_grad()
def _bad(groups: Sequence[Sequence[Tensor]], args: TrainingArguments) -> Tensor:
    """For each group of tensors 1 if one of them is not finite, and 0 otherwise."""
    flags = []
    for group in groups:
        # The greatest magnitude: of finite tensors it is finite, which a sum of squares need not
        # be. That of nothing, as a shard may be, does not exist.
        parts = [local(tensor.detach()) for tensor in group]
        parts = [part for part in parts if part.numel()]
        norm = torch.nn.utils.get_total_norm(parts, float("inf"))
        flags.append((~norm.isfinite()).float().to(args.device))

    return torch.stack(flags)


def _together(flags: Tensor, args: TrainingArguments) -> Tensor:
    """The sum of the flags over all processes."""
    if args.world_size > 1:
        torch.distributed.all_reduce(flags)
    return flags


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(names[:_NAMED])
    if len(names) > _NAMED:
        listed += f" and {len(names) - _NAMED} more"
    return listed
