"""Whether a model belongs to a published family: a language joins only the θ it was made for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub._json_file import LARGEST_JSON, read_json, shown
from hf_meta_adapters.hub.manifest import SHARED_ADAPTER, Family, manifest_key

_IDENTITY = (
    "base_class",
    "backend",
    "one_adapter_for_all",
    "theta_is_adapter",
    "base_model",
    "base_revision",
    "body",
)
_VOLATILE = {
    "_name_or_path",
    "auto_mapping",
    "base_model_name_or_path",
    "dtype",
    "inference_mode",
    "model_name",
    "name",
    "peft_version",
    "revision",
    "task_type",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "version",
}
"""Settings of config.json and adapter_config.json that may differ within a family."""

_LISTED = 5
"""How many differences the error names; further ones are counted."""


class Place(Protocol):
    """Where a family lies: a folder, or a repository at a commit."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def size(self, path: str) -> int | None:
        """The bytes of a file; `None` if it is missing."""

    def sha256(self, path: str) -> str | None:
        """The SHA-256 of a file, where it is known without reading the file."""

    def fetch(self, path: str) -> Path:
        """The file itself, downloaded if need be."""


@dataclass(frozen=True)
class Folder:
    """A folder with a family.

    Args:
        folder: The folder.
        family: The manifest in it.
    """

    folder: Path
    family: Family

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    def size(self, path: str) -> int | None:
        """The bytes of a file."""
        file = self.folder / path
        return file.stat().st_size if file.is_file() else None

    def sha256(self, path: str) -> str | None:
        """What the manifest records."""
        return self.family.hashes.get(path)

    def fetch(self, path: str) -> Path:
        """The file."""
        return self.folder / path


def check_same_family(folder: Path, family: Family, place: Place, published: Family) -> None:
    """Refuse to add a language to a family of another base, another θ or another kind of adapter.

    Args:
        folder: Where the family with the new language was saved.
        family: Its manifest.
        place: The repository.
        published: The manifest in it.

    Raises:
        HubError: With the differences.
    """
    differences = family_differences(folder, family, place, published)
    if not differences:
        return

    raise HubError(
        "A language can join a family that has the same base, θ and kind of adapter. Found"
        f" that {place.name!r} differs: {listed(differences)}. Load that family with"
        " `LanguageAdapterModel.from_pretrained(...)`, then use `add_language` and `train_only`, or"
        " push to another repository."
    )


def family_differences(
    folder: Path, family: Family, place: Place, published: Family, *, theta: bool = True
) -> list[str]:
    """How a family differs from another one in what all its languages have in common.

    θ is compared by the known hashes of its files. Only where they differ (after other sharding,
    say) is it read and compared number by number.

    Args:
        folder: Where the family was saved.
        family: Its manifest.
        place: Where the other one is.
        published: The manifest of that.
        theta: Whether θ is compared as well.

    Returns:
        The differences, for a message.
    """
    # The cheapest comparison first: configurations and θ may have to be downloaded.
    differences = list(_manifest_differences(family, published))
    if differences:
        return differences

    for here, there in _comparable_configs(family, published):
        differences += config_differences(folder / here, place, there)

    if theta:
        differences += _theta_differences(folder, family, place, published)
    return differences


def listed(differences: Sequence[str]) -> str:
    """The first differences, and how many there are besides."""
    first = list(differences[:_LISTED])
    if len(differences) > _LISTED:
        first.append(f"and {len(differences) - _LISTED} more")

    return "; ".join(first)


def _manifest_differences(family: Family, published: Family) -> Iterator[str]:
    for attribute in _IDENTITY:
        here, there = getattr(family, attribute), getattr(published, attribute)
        if here != there:
            yield f"`{manifest_key(attribute)}` is {there!r} there and {here!r} here"


def _comparable_configs(family: Family, published: Family) -> Iterator[tuple[str, str]]:
    """Paths of configurations here and there that must agree: of the base, and of one adapter."""
    yield "config.json", "config.json"

    # A language that is being replaced says nothing about the others.
    others = [key for key in published.languages if key not in family.languages]
    here = family.adapters(family.languages)
    there = published.adapters(others or published.languages)

    if here and there:
        yield f"{here[0]}/adapter_config.json", f"{there[0]}/adapter_config.json"


def config_differences(path: Path, place: Place, name: str) -> Iterator[str]:
    """Settings in which two JSON files differ; another version may lack or add a setting."""
    there = None
    size = place.size(name)
    if size is not None:
        _check_size(place, name, size)
        there = read_json(place.fetch(name), f"`{name}` of {place.name!r} must be JSON.")

    if not isinstance(there, dict):
        yield f"`{name}` is missing there"
        return

    here = json.loads(path.read_text(encoding="utf-8"))
    for key in sorted((here.keys() & there.keys()) - _VOLATILE):
        if _without_order(here[key]) != _without_order(there[key]):
            values = f"{shown(there[key])} there and {shown(here[key])} here"
            yield f"`{key}` in {name} is {values}"


def _check_size(place: Place, name: str, size: int) -> None:
    if size > LARGEST_JSON:
        raise HubError(
            f"`{name}` must be a short text. Found {size:,} bytes of it in {place.name!r}. Use"
            " another place."
        )


def _without_order(value: object) -> object:
    # PEFT keeps `target_modules` as a set, which becomes a list in any order.
    if isinstance(value, list):
        return sorted(map(str, value))

    return value


def _theta_differences(folder: Path, family: Family, place: Place, published: Family) -> list[str]:
    """Tensors of θ that differ, or what keeps them from being compared."""
    here = [path for path in family.files if _is_shared(path)]
    there = [path for path in published.files if _is_shared(path) and place.size(path) is not None]

    # Equal hashes need no download. Unequal ones prove nothing: sharding or metadata may differ.
    if here == there:
        hashes = ((family.hashes[path], place.sha256(path)) for path in here)
        if all(ours == theirs for ours, theirs in hashes):
            return []

    # A file that is larger than declared is not downloaded.
    for path in there:
        if place.size(path) != published.files[path]:
            return [f"{path} does not have the size that its manifest declares"]

    ours = _tensors(folder / path for path in here)
    theirs = _tensors(place.fetch(path) for path in there)

    return [
        f"θ has another `{name}`"
        for name in sorted(ours.keys() | theirs.keys())
        if name not in ours or name not in theirs or not _is_equal(ours[name], theirs[name])
    ]


def _is_shared(path: str) -> bool:
    return "/" not in path or path.startswith(f"{SHARED_ADAPTER}/")


def _is_equal(ours: Tensor, theirs: Tensor) -> bool:
    return ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def _tensors(paths: Iterable[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}

    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                tensors |= {name: file.get_tensor(name) for name in names}
        except SafetensorError as error:
            raise HubError(
                f"Weights must be in safetensors format. Found {path.name} damaged: {error}. Push"
                " it again."
            ) from error

    return tensors
