"""Models with languages by the library `adapters`: every method on families that it knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

adapters = pytest.importorskip(
    "adapters", reason="NOT CHECKED: the extra `adapters` is absent; `make test-adapters` has it"
)

from adapters import (  # noqa: E402
    AdapterConfig,
    CompacterConfig,
    ConfigUnion,
    DoRAConfig,
    DoubleSeqBnConfig,
    DoubleSeqBnInvConfig,
    IA3Config,
    LoRAConfig,
    LoReftConfig,
    NoReftConfig,
    ParBnConfig,
    PrefixTuningConfig,
    SeqBnConfig,
    SeqBnInvConfig,
)

from hf_meta_adapters import LanguageAdapterModel, get_language_model  # noqa: E402
from tests.tiny import TinyModel, tiny  # noqa: E402

LANGUAGES = ("te", "to", "zh-Hant")
"""`te` is part of `adapter`, and `to` an attribute of every module."""
NARROW = {
    "reduction_factor": 4,
    "dropout": 0.1,
    "non_linearity": "swish",
}  # `relu` may switch all of 4 units off
LOW_RANK = {"r": 2, "alpha": 4, "dropout": 0.1}
BOTH_ENDS = {"prefix_positions": 2, "suffix_positions": 2, "dropout": 0.1}

METHODS: dict[str, AdapterConfig] = {
    "seq_bn": SeqBnConfig(**NARROW),
    "double_seq_bn": DoubleSeqBnConfig(**NARROW),
    "par_bn": ParBnConfig(**NARROW),
    "seq_bn_inv": SeqBnInvConfig(**NARROW),
    "double_seq_bn_inv": DoubleSeqBnInvConfig(**NARROW),
    "compacter": CompacterConfig(reduction_factor=4, phm_dim=2),
    "lora": LoRAConfig(**LOW_RANK, intermediate_lora=True, output_lora=True),
    "dora": DoRAConfig(**LOW_RANK),
    "ia3": IA3Config(),
    "prefix": PrefixTuningConfig(prefix_length=3, bottleneck_size=4, dropout=0.1),
    "loreft": LoReftConfig(**BOTH_ENDS),
    "noreft": NoReftConfig(**BOTH_ENDS),
    "union": ConfigUnion(SeqBnConfig(**NARROW), LoRAConfig(**LOW_RANK)),
}
"""A method is added by one line."""
FRESH_IS_IDENTITY = ("par_bn", "lora", "dora", "ia3")
FAMILIES = ("bert", "llama", "mt5")
FURTHER = (
    "xlm-r",
    "roberta",
    "mbart",
    "distilbert",
    "deberta-v2",
    "gpt2",
    "mistral",
    "qwen3",
    "gemma3",
    "whisper",
)
CELLS = [(name, method) for name in FAMILIES for method in METHODS]
FURTHER_CELLS = [
    (name, method) for name in FURTHER for method in ("double_seq_bn_inv", "lora", "noreft")
]


def bare(cell: TinyModel | str, dtype: torch.dtype = torch.float32) -> Any:
    """A base model; decoders have the attention in which prefixes have an effect."""
    cell = tiny(cell) if isinstance(cell, str) else cell
    model = cell.make(dtype)
    if cell.kind == "decoder":
        model.set_attn_implementation("eager")
    return model


def adapted(
    cell: TinyModel | str,
    method: str = "double_seq_bn",
    languages: Sequence[str] = LANGUAGES,
    **options: Any,
) -> LanguageAdapterModel:
    """A model with fresh adapters."""
    base = bare(cell, options.pop("dtype", torch.float32))
    return get_language_model(base, METHODS[method], languages, **options)


def stirred(model: LanguageAdapterModel, scale: float = 0.3) -> LanguageAdapterModel:
    """The model with every trained parameter changed but those that must be orthogonal."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "parametrizations" not in name:
                parameter.add_(scale * torch.randn_like(parameter))
    return model


def plain(base: Any, folder: Any) -> Any:
    """A base model with one saved adapter, by the library alone."""
    adapters.init(base)
    base.load_adapter(str(folder), use_safetensors=True, set_active=True)
    return base.eval()
