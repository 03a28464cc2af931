"""Which files a saved model consists of, and what is refused before any of them is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub.manifest import SHARED_ADAPTER, Family

_CONFIG, _INDEX, _ADAPTER_CONFIG = (
    "config.json",
    "model.safetensors.index.json",
    "adapter_config.json",
)
_TEXTS = (_CONFIG, "generation_config.json", _INDEX)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
LARGEST_TEXT = 16 * 2**20
"""Bytes that a JSON file may have, which the manifest does not declare."""


def weight_sizes(folder: Path, family: Family) -> dict[str, int]:
    """The size of each file of weights that belongs to a saved model, by its path in the folder."""
    found = [] if family.base_model else _shards(folder)
    for adapter in _adapter_folders(family, family.languages):
        found += [
            f"{adapter}/{path.name}" for path in sorted((folder / adapter).glob("*.safetensors"))
        ]
    return {path: (folder / path).stat().st_size for path in found}


def needed_files(family: Family, languages: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files that some languages of a family are loaded from: weights, and texts, of which some may be absent."""
    folders = _adapter_folders(family, languages)
    weights = [path for path in family.files if "/" not in path or path.split("/")[0] in folders]
    return weights, [*_TEXTS, *(f"{folder}/{_ADAPTER_CONFIG}" for folder in folders)]


def check_sizes(
    where: str, family: Family, languages: Sequence[str], sizes: Mapping[str, int]
) -> None:
    """Refuse a remote family before any of it is downloaded.

    Args:
        where: The repository, for messages.
        family: Its manifest.
        languages: Those that are to be loaded.
        sizes: The path of every file in the repository → its bytes.

    Raises:
        HubError: If weights are missing, pickled, not declared or larger than declared, or a text
            is unreasonably large; with all files of which that is so.
    """
    weights, texts = needed_files(family, languages)
    wrong = [f"{path} has {sizes[path]:,} bytes, where the manifest declares {family.files[path]:,}"
             for path in weights if path in sizes and sizes[path] != family.files[path]]  # fmt: skip
    wrong += [
        f"{path} has {sizes[path]:,} bytes" for path in texts if sizes.get(path, 0) > LARGEST_TEXT
    ]
    wrong += [f"{path} is missing" for path in weights if path not in sizes]
    places = (
        _adapter_folders(family, languages)
        if family.base_model
        else ["", *_adapter_folders(family, languages)]
    )
    for place in places:
        if not any(path.rpartition("/")[0] == place for path in weights):
            pickles = [
                path
                for path in sizes
                if path.rpartition("/")[0] == place and path.endswith(_PICKLES)
            ]
            what = (
                f"only a pickle, {pickles[0]}, which can run code when it is read"
                if pickles
                else "none declared"
            )
            wrong.append(f"weights of {place or 'the shared model'}: {what}")
    if wrong:
        raise HubError(
            "The weights of a family must be the safetensors files that its manifest declares,"
            f" with their sizes. Found in {where}: {'; '.join(wrong)}. Write `push_to_hub` again"
            " from a model that you trust; a pickle is converted by"
            ' `safetensors.torch.save_file(torch.load("….bin", weights_only=True),'
            ' "….safetensors")`.'
        )


def check_folder(folder: Path, family: Family, languages: Sequence[str]) -> None:
    """Refuse what lies outside of a folder, and what would run code.

    Args:
        folder: Of a saved model; in a cache of the Hub its files may be links into `blobs/` beside
            it.
        family: Its manifest.
        languages: Those that are to be loaded.

    Raises:
        HubError: If a file or a folder is a link, an index leads elsewhere, or the model wants code
            of its own.
    """
    weights, texts = needed_files(family, languages)
    paths = {*weights, *texts, *_shards(folder), *_adapter_folders(family, languages)}
    for directory in _adapter_folders(family, languages):
        paths |= {f"{directory}/{path.name}" for path in (folder / directory).glob("*")}
    if links := sorted(path for path in paths if _leads_elsewhere(folder, folder / path)):
        raise HubError(
            f"The files of a saved model must lie in its folder. Found links in {folder}:"
            f" {', '.join(links)}. Put the files themselves there."
        )
    if isinstance(index := _read(folder / _INDEX), dict):
        shards = index.get("weight_map")
        names = set(map(str, shards.values())) if isinstance(shards, dict) else {repr(shards)}
        if elsewhere := sorted(
            name for name in names if Path(name).name != name or not name.endswith(".safetensors")
        ):
            raise HubError(
                "The index of the shared weights must name safetensors files beside it. Found in"
                f" {folder / _INDEX}: {', '.join(map(repr, elsewhere[:3]))}. Save the model again."
            )
    config = _read(folder / _CONFIG)
    if isinstance(config, dict) and config.get("auto_map"):
        raise HubError(
            "The shared weights must be of a model class of transformers. Found code of its own,"
            f" `auto_map`, in {folder / _CONFIG}, which this package never runs. Load that model by"
            " itself if you trust it, and put adapters into it with `get_language_model`."
        )


def _adapter_folders(family: Family, languages: Sequence[str]) -> list[str]:
    return [*family.adapters(languages), *([SHARED_ADAPTER] if family.shared_adapter else [])]


def _shards(folder: Path) -> list[str]:
    """The safetensors files of the shared weights: one, or those of an index."""
    return sorted(path.name for path in folder.glob("model*.safetensors"))


def _read(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HubError(
            f"A saved model must have readable JSON files. Found {path} damaged: {error}. Download"
            " or save it again."
        ) from error


def _leads_elsewhere(folder: Path, path: Path) -> bool:
    if not path.is_symlink():
        return False
    in_cache = folder.parent.name == "snapshots" and path.is_file()
    return not (in_cache and path.resolve().parent == (folder.parents[1] / "blobs").resolve())
