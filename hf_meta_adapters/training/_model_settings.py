"""The settings of a model that decide what it computes in training, beside its weights."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.training._resumed_arguments import plain

BASE = "weights of the frozen base"
"""The name of the digest of weights that checkpoints may only name."""

_WITHOUT_EFFECT = {
    "_name_or_path",
    "transformers_version",
    "architectures",
    "dtype",
    "torch_dtype",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "return_dict",
    "return_dict_in_generate",
    "id2label",
    "label2id",
    "_attn_implementation",
    # the Trainer itself sets them to those of the tokenizer, and a forward pass the last one
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "problem_type",
}
"""Entries of a `config.json` that name, or that act outside of training."""

_OF_A_NEW_ADAPTER = (
    "init",
    "inference_mode",
    "base_model_name_or_path",
    "revision",
    "task_type",
    "auto_mapping",
    "peft_version",
    "runtime_config",
)
"""How the entries begin of an adapter's configuration that act only where it is created or read."""

_DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
_SAMPLED = 64


def model_settings(model: LanguageAdapterModel) -> dict[str, object]:
    """The settings of a model, flat and JSON.

    Args:
        model: The model, before it is sharded.

    Returns:
        name → value.
    """
    settings: dict[str, object] = {"base class": type(model.base_model).__name__}
    for name, value in _entries("config", _config_of(model.base_model), _WITHOUT_EFFECT):
        settings[name] = value

    adapter = _as_mapping(model.backend.config)
    ignored = {name for name in adapter if name.startswith(_OF_A_NEW_ADAPTER)}
    settings.update(_entries("adapter", adapter, ignored))

    # As they are, and not as the configuration says: a module may have been changed by hand.
    dropouts = [module.p for module in model.modules() if isinstance(module, _DROPOUTS)]
    counts = Counter(map(str, dropouts))
    settings["dropout modules by probability"] = dict(sorted(counts.items()))

    owners = {"θ": model.shared_parameters()}
    for language in model.languages:
        owners[f"φ of {language!r}"] = model.language_parameters(language)
    for owner, parameters in owners.items():
        settings[f"trained parameters of {owner}"] = _names(parameters)
        settings[f"type of {owner}"] = sorted({str(one.dtype) for one in parameters.values()})

    # A base that is only named is not in the checkpoint, and is not trained.
    if model.shared_part is not None:
        settings[BASE] = _sample(model)
    return settings


def _config_of(base: nn.Module) -> Mapping[str, object]:
    config = getattr(base, "config", None)
    if config is None:
        return {}
    return _as_mapping(config)


def _as_mapping(config: object) -> Mapping[str, object]:
    """The entries of a configuration of transformers, of PEFT, of `adapters`, or of a user."""
    to_dict = getattr(config, "to_dict", None)
    if callable(to_dict):
        entries: Mapping[str, object] = to_dict()
        return entries
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return dataclasses.asdict(config)
    return {}


def _entries(
    name: str, content: Mapping[str, object], ignored: Iterable[str]
) -> Iterator[tuple[str, object]]:
    """The entries of nested mappings: a later version may have more, and those of both count."""
    for key, value in content.items():
        if key in ignored:
            continue
        if isinstance(value, Mapping):
            yield from _entries(f"{name}.{key}", value, ignored)
        else:
            yield f"{name}.{key}", plain(value)


def _names(parameters: Iterable[str]) -> str:
    """Which parameters, in which order: an optimizer's state is loaded by position."""
    names = list(parameters)
    digest = hashlib.blake2b("\n".join(names).encode(), digest_size=4).hexdigest()
    return f"{len(names)} tensors, digest {digest}"


def _sample(model: LanguageAdapterModel) -> str | None:
    """A digest of some numbers of every frozen tensor; `None` where they are sharded."""
    total = hashlib.blake2b(digest_size=8)
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}

    for name, parameter in model.named_parameters():
        if id(parameter) in trained:
            continue
        if type(parameter.data) is not Tensor or parameter.is_meta:
            return None

        flat = parameter.detach().flatten()
        positions = torch.arange(0, len(flat), max(1, len(flat) // _SAMPLED), device=flat.device)
        numbers = flat[positions].cpu().contiguous()
        total.update(name.encode())
        total.update(numbers.view(torch.uint8).numpy().tobytes())

    return total.hexdigest()
