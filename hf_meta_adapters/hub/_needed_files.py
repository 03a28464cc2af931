"""Which files a saved model consists of, and which of them some languages are loaded from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hf_meta_adapters.hub._json_file import LARGEST_JSON
from hf_meta_adapters.hub.manifest import SHARED_ADAPTER, Family

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
_SHARD = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_TEXTS = (CONFIG, "generation_config.json", INDEX)

LARGEST_TEXT = LARGEST_JSON
"""The most bytes of a text, whose size the manifest does not declare."""


def weight_sizes(folder: Path, family: Family) -> dict[str, int]:
    """The size of each file of weights that belongs to a saved model, by its path in the folder."""
    paths: list[str] = []
    if not family.base_model:
        paths += shard_names(folder)
    for adapter in adapter_folders(family, family.languages):
        paths += sorted(
            f"{adapter}/{file.name}" for file in (folder / adapter).glob("*.safetensors")
        )

    return {path: (folder / path).stat().st_size for path in paths}


def needed_files(family: Family, languages: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files that some languages are loaded from: weights, and texts that may be absent."""
    folders = adapter_folders(family, languages)

    weights = [path for path in family.files if "/" not in path or path.split("/")[0] in folders]
    texts = [*_TEXTS, *(f"{folder}/{ADAPTER_CONFIG}" for folder in folders)]
    return weights, texts


def adapter_folders(family: Family, languages: Sequence[str]) -> list[str]:
    """The folders of the adapters of some languages and, where θ is an adapter, of θ."""
    folders = family.adapters(languages)
    if family.theta_is_adapter:
        folders.append(SHARED_ADAPTER)

    return folders


def shard_names(folder: Path) -> list[str]:
    """The safetensors files of the shared weights: a single file, or several with an index."""
    return sorted(path.name for path in folder.glob("model*") if _SHARD.fullmatch(path.name))
