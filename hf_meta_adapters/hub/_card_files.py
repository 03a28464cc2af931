"""What the card says of the files beside it, which the manifest does not record."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import transformers

from hf_meta_adapters.hub._needed_files import ADAPTER_CONFIG
from hf_meta_adapters.hub.manifest import SHARED_ADAPTER, Family

_TOKENIZER = "tokenizer_config.json"


@dataclass(frozen=True)
class CardFiles:
    """The files of a family, as far as its card tells how to use them.

    Args:
        method: PEFT's name for the method of the adapters; "" if it is unknown or not PEFT's.
        has_tokenizer: Whether there is a tokenizer.
        tokens: How many tokens there are, if a base that is only named may have fewer; 0 otherwise.
    """

    method: str = ""
    has_tokenizer: bool = False
    tokens: int = 0


def card_files(folder: Path, family: Family, others: Collection[str] = ()) -> CardFiles:
    """Look at the files of a family.

    Args:
        folder: The folder.
        family: The manifest.
        others: The paths of files that are published already.
    """
    has_tokenizer = _TOKENIZER in others or (folder / _TOKENIZER).is_file()

    # All adapters are of one method, but perhaps not all are in the folder.
    for adapter in [*family.adapters(family.languages), SHARED_ADAPTER]:
        config = folder / adapter / ADAPTER_CONFIG
        if config.is_file():
            settings = json.loads(config.read_text(encoding="utf-8"))
            tokens = 0
            if family.base_model and settings.get("trainable_token_indices"):
                tokens = _tokens(folder)
            return CardFiles(str(settings.get("peft_type") or ""), has_tokenizer, tokens)

    return CardFiles("", has_tokenizer)


def _tokens(folder: Path) -> int:
    """The size of the vocabulary in the configuration of a model; 0 if it names none."""
    config = transformers.AutoConfig.from_pretrained(str(folder)).get_text_config()
    tokens = getattr(config, "vocab_size", None)
    return tokens if isinstance(tokens, int) else 0
