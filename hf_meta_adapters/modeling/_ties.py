"""Which tensors of a transformers model are one, now and after it has been saved and loaded."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn

_FLAG = "tie_word_embeddings"


def settle_ties(model: nn.Module, origin: nn.Module) -> None:
    """Make a model whose embeddings are no longer one say so, so that it is loaded as it is.

    The flag `tie_word_embeddings` of the configuration is cleared, and what else it had tied, such
    as biases, becomes tensors of their own, which a checkpoint then has.

    Args:
        model: The model; changed in place.
        origin: The model that it was made from, whose tensors are tied as its configuration says.
    """
    if not isinstance(model, transformers.PreTrainedModel):
        return

    # libraries clear the flag as well, but not with the care that follows
    source: Any = origin.config
    configs = [model.config, model.config.get_text_config()]
    origins = [source, source.get_text_config()]
    flags = [getattr(config, _FLAG, None) for config in origins]
    _set_flags(configs, flags)
    if not _broken_ties(model):
        return

    before = _as_saved(model.config)
    _set_flags(configs, [False, False])

    # T5 and mT5 scale their logits, or not, by what the flag of a saved configuration says
    if _without_flag(before) != _without_flag(_as_saved(model.config)):
        _set_flags(configs, flags)

    # the class may tie whatever the flag says, but not what a checkpoint has different values for
    kept = [names for names in _tied_after_loading(model) if _are_one(model, names)]
    for names in _groups(_tensors(model)):
        if not any(set(names) <= set(group) for group in kept):
            for name in names[1:]:
                _give_own(model, name)


def loads_as_it_is(model: nn.Module) -> bool:
    """Whether a model keeps the values of all its tensors when it is saved and loaded."""
    if not isinstance(model, transformers.PreTrainedModel):
        return True

    # transformers 5 ties nothing that a checkpoint has different values for
    return hasattr(model, "all_tied_weights_keys") or not _broken_ties(model)


def _broken_ties(model: transformers.PreTrainedModel) -> bool:
    """Whether tensors differ that loading would tie."""
    return not all(_are_one(model, names) for names in _tied_after_loading(model))


def _are_one(model: nn.Module, names: Sequence[str]) -> bool:
    """Whether tensors have the same values."""
    tensors = _tensors(model)
    first, *others = [tensors[name] for name in names]
    return all(other is first or torch.equal(other, first) for other in others)


def _tied_after_loading(model: transformers.PreTrainedModel) -> list[list[str]]:
    """The groups of names that are one tensor in a new model of the saved configuration."""
    model_class: Any = type(model)
    with torch.device("meta"):  # no memory, no values
        fresh = model_class(_as_saved(model.config))

        # what a constructor ties is loaded under each name, but `tie_weights` runs afterwards
        for names in _groups(_tensors(fresh)):
            for name in names[1:]:
                _give_own(fresh, name)
        fresh.tie_weights()

    return _groups(_tensors(fresh))


def _as_saved(config: transformers.PretrainedConfig) -> transformers.PretrainedConfig:
    """What a configuration is after it has been saved and loaded."""
    content = copy.deepcopy(config.to_dict())
    return type(config).from_dict(content, attn_implementation="eager")


def _set_flags(configs: Sequence[Any], flags: Sequence[object]) -> None:
    for config, flag in zip(configs, flags, strict=True):
        setattr(config, _FLAG, flag)


def _without_flag(config: transformers.PretrainedConfig) -> dict[str, object]:
    return {name: value for name, value in config.to_dict().items() if name != _FLAG}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in model.state_dict(keep_vars=True).items()
        if isinstance(tensor, Tensor)
    }


def _groups(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of each tensor that has several."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, tensor in tensors.items():
        names[id(tensor)].append(name)

    return [group for group in names.values() if len(group) > 1]


def _give_own(model: nn.Module, name: str) -> None:
    """Replace a tied parameter by a copy, under one of its names."""
    place, _, attribute = name.rpartition(".")
    owner = model.get_submodule(place)
    tensor = getattr(owner, attribute)
    if isinstance(tensor, nn.Parameter):
        setattr(owner, attribute, nn.Parameter(tensor.detach().clone(), tensor.requires_grad))
