"""Rows of a base that is only named, for tokens that its files do not have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub._json_file import read_json
from hf_meta_adapters.hub._needed_files import ADAPTER_CONFIG
from hf_meta_adapters.hub.limits import amount_in
from hf_meta_adapters.hub.manifest import SHARED_ADAPTER

_RULE = "The rows of new tokens must be part of the shared adapter."


def add_saved_rows(folder: Path, model: nn.Module) -> None:
    """Make room in a base for the new tokens of a family, whose values are read with θ.

    The configuration in the folder says how many tokens there are.

    Args:
        folder: The folder of the family.
        model: The base, as its own files have it; changed in place.

    Raises:
        HubError: If the shared adapter does not hold the rows that are missing.
    """
    if not isinstance(model, transformers.PreTrainedModel):
        return

    config: Any = transformers.AutoConfig.from_pretrained(str(folder)).get_text_config()
    embeddings: Any = model.get_input_embeddings()
    present, width = embeddings.weight.shape
    wanted = getattr(config, "vocab_size", None)  # not every configuration has it
    if not isinstance(wanted, int) or wanted <= present:
        return

    place = folder / SHARED_ADAPTER
    trained = set(_token_indices(place))
    held = amount_in(sorted(place.glob("*.safetensors"))).numbers
    # a configuration from elsewhere may name any number
    if (wanted - present) * width > held or not set(range(present, wanted)) <= trained:
        raise HubError(
            f"{_RULE} Found in {folder} a vocabulary of {wanted:,} tokens, a base of"
            f" {present:,}, and in `{SHARED_ADAPTER}/` not the rows between them. Download or save"
            " the model again."
        )

    with torch.random.fork_rng(devices=[]):  # values that are read afterwards
        model.resize_token_embeddings(wanted, mean_resizing=False)
    for part in (model.get_input_embeddings(), model.get_output_embeddings()):
        if part is not None:
            part.weight.data[present:] = 0


def _token_indices(place: Path) -> Iterator[int]:
    """The rows that the settings of an adapter of PEFT name, of whichever module."""
    settings = read_json(place / ADAPTER_CONFIG, _RULE)
    found = settings.get("trainable_token_indices") if isinstance(settings, dict) else None
    lists = list(found.values()) if isinstance(found, Mapping) else [found]

    for rows in lists:
        if isinstance(rows, list):
            yield from (row for row in rows if isinstance(row, int))
