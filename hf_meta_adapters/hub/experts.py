"""Families that are to be merged: where their files are, and whether they are of one base."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import safe_open
from torch import Tensor

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.hub._needed_files import weight_sizes
from hf_meta_adapters.hub._same_base import tensors_of
from hf_meta_adapters.hub._same_family import (
    Folder,
    config_differences,
    family_differences,
    listed,
)
from hf_meta_adapters.hub.client import Access
from hf_meta_adapters.hub.download import fetch_family, local_folder
from hf_meta_adapters.hub.manifest import SHARED_ADAPTER, Family, write_manifest

Tensors = Mapping[str, Callable[[], Tensor]]
"""The name of each tensor in a file → a function that reads it."""

_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_SIZE_OF_LORA = (
    "alpha_pattern",
    "lora_alpha",
    "lora_dropout",
    "r",
    "rank_pattern",
    "target_modules",
    "use_rslora",
)
"""Settings in which LoRA that are merged into θ may differ."""


@dataclass(frozen=True)
class Expert:
    """One of the families.

    Args:
        label: What messages call it.
        name: What is recorded: a repository, or the last part of a folder; "" for a model in
            memory.
        folder: Where its files are.
        family: The manifest.
        weight: How much it counts; the sum over all is 1.
        tokenizer: The folder or the repository that may hold a tokenizer; `None` if there is none.
    """

    label: str
    name: str
    folder: Path
    family: Family
    weight: float
    tokenizer: Path | str | None

    def record(self) -> dict[str, object]:
        """What the manifest of the merged family says of this one."""
        entry: dict[str, object] = {
            "name": self.name,
            "languages": list(self.family.languages),
            "weight": self.weight,
        }
        if isinstance(self.tokenizer, str):
            entry["revision"] = self.folder.name
        return entry


def fetch_expert(source: str | Path, weight: float, access: Access) -> Expert:
    """Return a family in a folder or on the Hub, whose files are there and have been checked.

    Args:
        source: The folder or the repository.
        weight: How much it counts.
        access: How the repository is reached.

    Raises:
        HubError: If there is no family, or it cannot be read.
    """
    folder, family = fetch_family(source, None, access)
    if local_folder(source) is None:
        return Expert(str(source), str(source), folder, family, weight, str(source))

    return Expert(str(source), folder.resolve().name, folder, family, weight, folder)


def check_experts(experts: Sequence[Expert], access: Access) -> None:
    """Refuse families of different bases, backends, configurations, tokenizers or heads.

    Raises:
        ConfigurationError: With all differences from the first family.
    """
    first = experts[0]
    found = [(other, list(_differences(first, other, access))) for other in experts[1:]]
    unlike = [
        f"{other.label!r} differs from {first.label!r}: {listed(differences)}"
        for other, differences in found
        if differences
    ]

    if unlike:
        raise ConfigurationError(
            "Families can be merged that were trained from one base model with one tokenizer, one"
            f" head and one configuration of adapters. Found that {'; and '.join(unlike)} (there:"
            f" the former, here: {first.label!r}). Leave out the families that differ, or train"
            " them again as the others were."
        )


def checkpoint_tensors(folder: Path, stack: ExitStack) -> Tensors:
    """The shared weights in a folder, of which each is read when it is asked for."""
    return tensors_of(folder, stack)


def adapter_tensors(folder: Path, stack: ExitStack) -> Tensors:
    """The tensors of one adapter, of whichever library."""
    tensors: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        file = stack.enter_context(safe_open(path, framework="pt"))
        for key in file.keys():  # noqa: SIM118  (not a dictionary)
            tensors[key] = lambda file=file, key=key: file.get_tensor(key)

    return tensors


def write_family(folder: Path, family: Family) -> None:
    """Write the manifest of a family whose files are in a folder already.

    Args:
        folder: The folder.
        family: The manifest, without the files, which are measured here.
    """
    write_manifest(folder, replace(family, files=weight_sizes(folder, family)).to_json())


def _differences(first: Expert, other: Expert, access: Access) -> Iterator[str]:
    place = Folder(other.folder, other.family)
    yield from family_differences(first.folder, first.family, place, other.family, theta=False)

    here, there = first.family, other.family
    if here.shared != there.shared:
        yield f"`shared` is {there.shared!r} there and {here.shared!r} here"

    name = f"{SHARED_ADAPTER}/adapter_config.json"
    if here.theta_is_adapter and there.theta_is_adapter:
        sizes = tuple(f"`{setting}` in " for setting in _SIZE_OF_LORA)
        for difference in config_differences(first.folder / name, place, name):
            if not difference.startswith(sizes):
                yield difference

    # a family need not have been saved with its tokenizer
    for name in _VOCABULARIES:
        ours, theirs = _vocabulary(first, name, access), _vocabulary(other, name, access)
        if ours is not None and theirs is not None and ours != theirs:
            yield f"the tokenizer in `{name}` is another one there"


def _vocabulary(expert: Expert, name: str, access: Access) -> object:
    """What a file of a tokenizer says of its tokens; `None` if there is no such file."""
    path = _tokenizer_file(expert, name, access)
    if path is None or not path.is_file():
        return None
    if name != "tokenizer.json":
        return path.read_bytes()

    # how texts are padded and cut to length is no part of the vocabulary
    content = json.loads(path.read_text(encoding="utf-8"))
    return [content.get(key) for key in ("model", "added_tokens", "normalizer")]


def _tokenizer_file(expert: Expert, name: str, access: Access) -> Path | None:
    if expert.tokenizer is None:
        return None
    if isinstance(expert.tokenizer, Path):
        return expert.tokenizer / name

    try:
        path = hf_hub_download(
            expert.tokenizer,
            name,
            revision=expert.folder.name,
            token=access.token,
            cache_dir=access.cache_dir,
            local_files_only=access.local_files_only,
        )
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None
    return Path(path)
