"""What turns rows into batches: the collator's settings and the tokenizer's vocabulary."""

from __future__ import annotations

import dataclasses
import hashlib
import json

from transformers import PreTrainedTokenizerBase

from hf_meta_adapters.training._resumed_arguments import plain

_SCALARS = (bool, int, float, str, type(None))


def collator_settings(collator: object, tokenizer: object) -> dict[str, object]:
    """The settings of a collator and a tokenizer, flat and JSON.

    Args:
        collator: The collator. Of one that is no dataclass only the type is known: what it holds
            may as well be a count of its calls.
        tokenizer: The tokenizer, a processor, or nothing.

    Returns:
        name → value.
    """
    settings: dict[str, object] = {"type of `data_collator`": type(collator).__name__}

    if dataclasses.is_dataclass(collator) and not isinstance(collator, type):
        for field in dataclasses.fields(collator):
            value = getattr(collator, field.name, None)
            if isinstance(value, _SCALARS):
                settings[f"data_collator.{field.name}"] = plain(value)

    if isinstance(tokenizer, PreTrainedTokenizerBase):
        settings["vocabulary of the tokenizer"] = _vocabulary(tokenizer)
        settings["padding side of the tokenizer"] = tokenizer.padding_side
    return settings


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    """The number of tokens, and a digest of their ids and of what is special about some."""
    tokens = tokenizer.get_vocab()
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}

    text = json.dumps([tokens, special], sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return f"{len(tokens)} tokens, digest {digest}"
