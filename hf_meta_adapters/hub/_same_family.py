"""Whether a model belongs to a published family: a language joins only the θ it was made for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from huggingface_hub.hf_api import RepoFile
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub._json_file import LARGEST_JSON, read_json, shown
from hf_meta_adapters.hub._remote import Remote
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


def check_same_family(folder: Path, family: Family, remote: Remote, published: Family) -> None:
    """Refuse to add a language to a family of another base, another θ or another kind of adapter.

    θ is compared by the hashes that the Hub has of its files. Only where they differ (after other
    sharding, say) is it downloaded and compared number by number.

    Args:
        folder: Where the family with the new language was saved.
        family: Its manifest.
        remote: The repository.
        published: The manifest in it.

    Raises:
        HubError: With the differences.
    """
    # The cheapest comparison first: configurations and θ may have to be downloaded.
    differences = list(_manifest_differences(family, published))
    if not differences:
        for here, there in _comparable_configs(family, published):
            differences += _config_differences(folder / here, remote, there)

        differences += _theta_differences(folder, family, remote, published)
    if not differences:
        return

    listed = differences[:_LISTED]
    if len(differences) > _LISTED:
        listed.append(f"and {len(differences) - _LISTED} more")

    raise HubError(
        "A language can join a family that has the same base, θ and kind of adapter. Found"
        f" that {remote.repo_id!r} differs: {'; '.join(listed)}. Load that family with"
        " `LanguageAdapterModel.from_pretrained(...)`, then use `add_language` and `train_only`, or"
        " push to another repository."
    )


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


def _config_differences(path: Path, remote: Remote, name: str) -> Iterator[str]:
    """Settings in which two JSON files differ; another version may lack or add a setting."""
    there = None
    if name in remote.files:
        _check_size(remote, name)
        there = read_json(remote.fetch(name), f"`{name}` of {remote.repo_id!r} must be JSON.")

    if not isinstance(there, dict):
        yield f"`{name}` is missing there"
        return

    here = json.loads(path.read_text(encoding="utf-8"))
    for key in sorted((here.keys() & there.keys()) - _VOLATILE):
        if _without_order(here[key]) != _without_order(there[key]):
            values = f"{shown(there[key])} there and {shown(here[key])} here"
            yield f"`{key}` in {name} is {values}"


def _check_size(remote: Remote, name: str) -> None:
    size = remote.files[name].size
    if size > LARGEST_JSON:
        raise HubError(
            f"`{name}` must be a short text. Found {size:,} bytes of it in {remote.repo_id!r}. Push"
            " to another repository."
        )


def _without_order(value: object) -> object:
    # PEFT keeps `target_modules` as a set, which becomes a list in any order.
    if isinstance(value, list):
        return sorted(map(str, value))

    return value


def _theta_differences(
    folder: Path, family: Family, remote: Remote, published: Family
) -> list[str]:
    """Tensors of θ that differ, or what keeps them from being compared."""
    here = [path for path in family.files if _is_shared(path)]
    there = [path for path in published.files if _is_shared(path) and path in remote.files]

    # Equal hashes need no download. Unequal ones prove nothing: sharding or metadata may differ.
    if here == there:
        hashes = ((family.hashes[path], _published_sha256(remote.files[path])) for path in here)
        if all(ours == theirs for ours, theirs in hashes):
            return []

    # A file that is larger than declared is not downloaded.
    for path in there:
        if remote.files[path].size != published.files[path]:
            return [f"{path} does not have the size that its manifest declares"]

    ours = _tensors(folder / path for path in here)
    theirs = _tensors(remote.fetch(path) for path in there)

    return [
        f"θ has another `{name}`"
        for name in sorted(ours.keys() | theirs.keys())
        if name not in ours or name not in theirs or not torch.equal(ours[name], theirs[name])
    ]


def _is_shared(path: str) -> bool:
    return "/" not in path or path.startswith(f"{SHARED_ADAPTER}/")


def _published_sha256(file: RepoFile) -> str | None:
    if file.lfs is None:
        return None
    return file.lfs.sha256


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
