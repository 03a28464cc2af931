"""What turns rows into batches: the collator's settings and the tokenizer's vocabulary."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json

from transformers import PreTrainedTokenizerBase

from hf_meta_adapters.data.fingerprint import fingerprint, first_rows
from hf_meta_adapters.data.seeding import seeded
from hf_meta_adapters.training._resumed_arguments import plain

PROBE = "content of a batch"
"""The name of the digest of a batch, among those of the data."""

_SCALARS = (bool, int, float, str, type(None))


def collator_settings(collator: object, tokenizer: object) -> dict[str, object]:
    """The settings of a collator and a tokenizer, flat and JSON.

    Args:
        collator: The collator. Of one that is no dataclass only the type is known here: what it
            holds may as well be a count of its calls. See `probe`.
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


def probe(collator: object, dataset: object) -> str | None:
    """Compute a digest of a batch of two rows, which tells what a function does with them.

    Args:
        collator: The collator.
        dataset: Rows that it takes.

    Returns:
        The digest; `None` of a dataclass, whose settings are known, and where there is no batch.
    """
    if dataclasses.is_dataclass(collator) or not callable(collator):
        return None

    # Whatever it raises, it raises again where training makes its first batch.
    try:
        rows = first_rows(dataset, 2)
        with seeded(0):
            # Copies: its own generator must not move on, and it may take rows apart.
            batch = dict(copy.deepcopy(collator)(copy.deepcopy(rows)))
    except Exception:
        return None
    return fingerprint([batch])


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    """The number of tokens, and a digest of their ids and of what is special about some."""
    tokens = tokenizer.get_vocab()
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}

    text = json.dumps([tokens, special], sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return f"{len(tokens)} tokens, digest {digest}"
