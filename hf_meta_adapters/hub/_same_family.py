"""Whether a model is of the family in a repository: a language may join only the base and the θ it was made for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.hf_api import RepoFile
from safetensors import SafetensorError, safe_open

from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub.manifest import SHARED_ADAPTER, Family

_FIELDS = (
    "base_class",
    "backend",
    "share_adapter",
    "shared_adapter",
    "base_model",
    "base_revision",
    "body",
)
_VOLATILE = {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache"} | {
    "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type", "auto_mapping", "name",
    "version", "model_name",
}  # fmt: skip


@dataclass(frozen=True)
class Remote:
    """What a repository holds at a commit.

    Args:
        repo_id: The repository.
        commit: The commit.
        files: The path of every file → what the Hub says of it.
        family: The manifest, if there is one.
        fetch: Downloads a file.
    """

    repo_id: str
    commit: str
    files: Mapping[str, RepoFile]
    family: Family | None
    fetch: Callable[[str], Path]

    def text(self, path: str) -> str | None:
        """The content of a text; `None` if there is none."""
        return self.fetch(path).read_text(encoding="utf-8") if path in self.files else None


def check_same_family(folder: Path, family: Family, remote: Remote) -> None:
    """Refuse to add a language to a family of another base, another θ or another kind of adapter.

    θ is compared by the hashes that the Hub has of its files; only where they differ (by another
    way of sharding, say) it is downloaded and compared number by number.

    Args:
        folder: Where the family with the new language was saved.
        family: Its manifest.
        remote: The repository, which holds a family.

    Raises:
        HubError: With all differences that were found.
    """
    there = remote.family
    if there is None:
        return
    wrong = [f"`{name}` is {getattr(there, name)!r} there and {getattr(family, name)!r} here"
             for name in _FIELDS if getattr(there, name) != getattr(family, name)]  # fmt: skip
    if not wrong:
        old = [key for key in there.languages if key not in family.languages] or there.languages
        configs = [("config.json", "config.json")]
        for mine, theirs in zip(
            family.adapters(family.languages), there.adapters(old), strict=False
        ):
            configs.append((f"{mine}/adapter_config.json", f"{theirs}/adapter_config.json"))
        for mine, theirs in configs[:2]:
            wrong += _differences(folder / mine, remote, theirs)
        wrong += _other_weights(folder, family, remote, there)
    more = [f"and {len(wrong) - 5} more"] if len(wrong) > 5 else []
    if wrong:
        raise HubError(
            "A language can join a family that has the same base, θ and kind of adapter. Found"
            f" that {remote.repo_id!r} differs: {'; '.join([*wrong[:5], *more])}. Load that family"
            " with `LanguageAdapterModel.from_pretrained(...)`, then `add_language` and"
            " `train_only`, or push to another repository."
        )


def _differences(path: Path, remote: Remote, name: str) -> Iterator[str]:
    """Settings in which a local and a remote JSON file differ; one that another version added is no difference."""
    text = remote.text(name)
    here, there = json.loads(path.read_text(encoding="utf-8")), json.loads(text) if text else None
    if not isinstance(there, dict):
        yield f"`{name}` is missing there"
        return
    for key in sorted((here.keys() & there.keys()) - _VOLATILE):
        if _plain(here[key]) != _plain(there[key]):
            yield f"`{key}` in {name} is {there[key]!r} there and {here[key]!r} here"


def _other_weights(folder: Path, family: Family, remote: Remote, there: Family) -> list[str]:
    shared = [path for path in family.files if _is_shared(path)]
    published = [path for path in there.files if _is_shared(path) and path in remote.files]
    if shared == published and all(
        _hash(folder / path) == _published_hash(remote.files[path]) for path in shared
    ):
        return []
    for path in published:
        if remote.files[path].size != there.files[path]:
            return [f"{path} has not the size that its manifest declares"]
    here = _tensors(folder / path for path in shared)
    other = _tensors(remote.fetch(path) for path in published)
    return [
        f"θ has another `{name}`"
        for name in sorted(here.keys() | other.keys())
        if name not in here or name not in other or not torch.equal(here[name], other[name])
    ]


def _is_shared(path: str) -> bool:
    return "/" not in path or path.startswith(f"{SHARED_ADAPTER}/")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()


def _published_hash(file: RepoFile) -> str | None:
    return file.lfs.sha256 if file.lfs is not None else None


def _tensors(paths: Iterator[Path]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
        except SafetensorError as error:
            raise HubError(
                f"Weights must be in safetensors format. Found {path.name} damaged: {error}. Push"
                " it again."
            ) from error
    return found


def _plain(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, list) else value
