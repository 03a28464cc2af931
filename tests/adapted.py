"""Models with languages for tests: every adapter method on the bank of tiny models."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import IA3Config, LNTuningConfig, LoraConfig, PeftConfig
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_meta_adapters import (
    BottleneckConfig,
    LanguageAdapterModel,
    ModuleCopyConfig,
    get_language_model,
)
from hf_meta_adapters.anatomy.modules import find_modules, pattern_of_modules
from tests.tiny import TinyModel, tiny

_KEYS_VALUES = re.compile(
    r"k|v|key|value|(k|v)_lin|(k|v|key|value)_proj|Wqkv|query_key_value|c_attn"
)
FAMILIES = ("bert", "xlm-r", "llama", "gpt2", "mt5", "mbart")


def _leaves(base: nn.Module, wanted: Callable[[nn.Module], bool]) -> list[str]:
    return sorted({name.rsplit(".", 1)[-1] for name, part in base.named_modules() if wanted(part)})


def lora(base: Any, **options: Any) -> PeftConfig:
    transposed = _leaves(base, lambda part: isinstance(part, Conv1D))
    targets = {"target_modules": transposed or "all-linear", "fan_in_fan_out": bool(transposed)}
    return LoraConfig(r=2, lora_dropout=0.1, **targets, **options)


def ia3(base: Any) -> PeftConfig:
    linears = (nn.Linear, Conv1D)
    targets = [
        name
        for name in _leaves(base, lambda part: isinstance(part, linears))
        if _KEYS_VALUES.fullmatch(name)
    ]
    options = {"fan_in_fan_out": True} if base.config.model_type == "gpt2" else {}
    return IA3Config(target_modules=targets, feedforward_modules=[], **options)


def layer_norm(base: Any) -> PeftConfig:
    return LNTuningConfig(target_modules=pattern_of_modules(base, find_modules(base, "layer_norm")))


def bottleneck(base: Any, **options: Any) -> PeftConfig:
    return BottleneckConfig(bottleneck_size=3, **options)


def copied(modules: str) -> Callable[[Any], PeftConfig]:
    return lambda base: ModuleCopyConfig(modules)


METHODS = {
    "bottleneck": bottleneck,
    "lora": lora,
    "ia3": ia3,
    "layer_norm": layer_norm,
    "copy_layer_norm": copied("layer_norm"),
    "copy_feed_forward": copied("feed_forward"),
    "copy_attention": copied("attention"),
}
"""What every family of the bank is tested with: a method is added by one line."""
MERGEABLE = tuple(method for method in METHODS if method != "bottleneck")


def adapted(
    cell: TinyModel | str,
    method: str | None = "bottleneck",
    languages: Sequence[str] = ("en", "sw"),
    **options: Any,
) -> LanguageAdapterModel:
    """A model with fresh adapters."""
    cell = tiny(cell) if isinstance(cell, str) else cell
    base = cell.make(dtype=options.pop("dtype", torch.float32))
    config = None if method is None else METHODS[method](base)
    return get_language_model(base, config, languages, **options)


def stirred(model: LanguageAdapterModel, scale: float = 0.3) -> LanguageAdapterModel:
    """The model with every trained parameter changed, so that languages differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn_like(parameter))
    return model


@torch.no_grad()
def outputs(model: Any, batch: dict[str, Any], **options: Any) -> list[Tensor]:
    """All tensors that a model in evaluation mode returns."""
    return [value for value in model(**batch, **options).values() if isinstance(value, Tensor)]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    """Whether two lists of tensors are bitwise equal."""
    return len(left) == len(right) > 0 and all(
        torch.equal(a, b) for a, b in zip(left, right, strict=True)
    )


def trained_as_owned(model: LanguageAdapterModel) -> bool:
    """Whether θ and every φ are trained, and nothing else."""
    owned = [
        model.shared_parameters(),
        *(model.language_parameters(key) for key in model.languages),
    ]
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    return trained == {id(parameter) for each in owned for parameter in each.values()}


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every tensor of a model."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    """The names of the tensors that differ from a snapshot."""
    return {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
