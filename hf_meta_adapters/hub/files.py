"""One folder for a model and its languages: a transformers checkpoint, an adapter folder per language, a manifest.

config.json, model.safetensors    the shared weights; `AutoModel….from_pretrained` reads them without this package
shared/                           θ, where that is an adapter; a base that has a name is then named and not written
<language>/                       one adapter, in the format of its own library
language_adapters.json            what belongs together, and the size of each file of weights
README.md                         the model card
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from safetensors import SafetensorError
from torch import Tensor, nn

from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub._card import CARD, card_text
from hf_meta_adapters.hub._run_record import as_record, draw
from hf_meta_adapters.hub._safety import weight_sizes
from hf_meta_adapters.hub.client import Access
from hf_meta_adapters.hub.manifest import (
    MANIFEST,
    SHARED_ADAPTER,
    Family,
    read_manifest,
    write_manifest,
)


class AdapterFiles(Protocol):
    """What reads and writes the adapter of a language: a backend."""

    base: Any

    def save(self, language: str, directory: Path) -> None:
        """Write an adapter."""

    def load(self, language: str, directory: Path, body: str | None = None) -> None:
        """Read an adapter."""


class SharedFiles(Protocol):
    """What reads and writes θ where that is an adapter."""

    def save(self, directory: Path, base_name: str) -> None:
        """Write it."""

    def load(self, directory: Path, body: str | None = None) -> None:
        """Read it."""


def save_family(
    folder: Path,
    family: Family,
    backend: AdapterFiles,
    state: Mapping[str, Tensor],
    shared: SharedFiles | None = None,
    **options: Any,
) -> None:
    """Write the shared weights as an ordinary transformers checkpoint, then every adapter, then the manifest.

    Args:
        folder: Where to; created if it is missing.
        family: The content of the manifest.
        backend: Holds the model and writes the adapters.
        state: The tensors of the base model under the names of its own checkpoint.
        shared: θ, where that is an adapter.
        **options: Of the `save_pretrained` of transformers.
    """
    details, family = family.details, replace(family, details=as_record(family.details))
    family.to_json()  # before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # what is half overwritten is no saved model
    if family.base_model:
        backend.base.config.save_pretrained(str(folder))
    else:
        # the base's own method may be one that `adapters` has put there, which writes adapters into
        # config.json
        transformers.PreTrainedModel.save_pretrained(
            backend.base, str(folder), state_dict=dict(state), **options
        )
    if shared is not None:
        shared.save(folder / SHARED_ADAPTER, family.base_model)
    for adapter in family.adapters(family.languages):
        backend.save(adapter, folder / adapter)
    family = replace(
        family,
        files=weight_sizes(folder, family),
        details={**family.details, **draw(folder, details)},
    )
    write_manifest(folder, family.to_json())
    card = folder / CARD
    card.write_text(
        card_text(family, card.read_text("utf-8") if card.is_file() else None), encoding="utf-8"
    )


def load_weights(
    folder: Path,
    own: Family,
    backend: AdapterFiles,
    state: Mapping[str, Tensor],
    shared: SharedFiles | None = None,
) -> None:
    """Read shared weights and adapters into a model that has them already, in place.

    Args:
        folder: Where from.
        own: What the manifest of the model would be; further languages in the folder are left out.
        backend: Holds the model and reads the adapters.
        state: The live tensors of the base model under the names of its own checkpoint.
        shared: θ, where that is an adapter.

    Raises:
        HubError: If the files are of another model, or damaged.
    """
    family = read_manifest(folder)
    wrong = [
        f"{name}={getattr(family, name)!r} where the model has {getattr(own, name)!r}"
        for name in ("base_class", "backend", "share_adapter", "shared_adapter", "base_model")
        if getattr(family, name) != getattr(own, name)
    ]
    wrong += [f"no language {key!r}" for key in own.languages if key not in family.languages]
    saved: dict[str, Tensor] = {}
    if not wrong and not family.base_model:
        saved = load_base(folder, family, type(backend.base), {}).state_dict()
        wrong = [
            f"{name} of shape {tuple(saved[name].shape) if name in saved else None}, not"
            f" {tuple(tensor.shape)}"
            for name, tensor in state.items()
            if name not in saved or saved[name].shape != tensor.shape
        ]
    if wrong:
        raise HubError(
            f"A checkpoint must be of this very model. Found in {folder}: {'; '.join(wrong)}. Write"
            " `LanguageAdapterModel.from_pretrained(...)` to load it as the model that it is."
        )
    with torch.no_grad():
        for name in saved.keys() & state.keys():
            state[name].copy_(saved[name])
    if shared is not None:
        shared.load(folder / SHARED_ADAPTER)
    for adapter in family.adapters(own.languages):
        backend.load(adapter, folder / adapter)


def load_base(
    folder: Path,
    family: Family,
    auto_class: Any,
    arguments: Mapping[str, Any],
    access: Access | None = None,
) -> nn.Module:
    """Load the shared weights without adapters, in the type in which they were saved.

    Args:
        folder: Where from.
        family: The manifest.
        auto_class: The class that loads them; `None` for the one that was saved.
        arguments: Further arguments of its `from_pretrained`; files other than safetensors are
            never read, and code of a repository is never run.
        access: How the repository of a base that is only named is reached.

    Returns:
        The transformers model.

    Raises:
        HubError: If the class is unknown, or files are missing, damaged, or of other shapes than
            configured.
    """
    kind: Any = auto_class or _saved_class(family.base_class)
    source = family.base_model or str(folder)
    # transformers 4 would load in float32 whatever was saved
    as_saved: dict[str, Any] = (
        {} if {"dtype", "torch_dtype"} & set(arguments) else {"dtype": "auto"}
    )
    fixed = {"use_safetensors": True, "output_loading_info": True, "trust_remote_code": False}
    fixed["ignore_mismatched_sizes"] = True  # to name them all
    rule = "The shared weights must be a transformers checkpoint in safetensors format."
    try:
        if family.base_model:
            as_saved = {
                **_as_it_was(folder, as_saved),
                **_reached(access),
                "revision": family.base_revision or None,
            }
        model, report = kind.from_pretrained(source, **{**as_saved, **arguments, **fixed})
    except (OSError, SafetensorError) as error:
        raise HubError(
            f"{rule} Found in {source}: {error} Download or save the model again."
        ) from error
    if (other := report["mismatched_keys"]) and not arguments.get("ignore_mismatched_sizes"):
        shapes = "; ".join(sorted(map(_mismatch, other)))
        raise HubError(
            f"{rule} Found in {source} shapes that are not those of the configuration: {shapes}."
            " Download or save the model again, or write `ignore_mismatched_sizes=True` to begin"
            " these anew."
        )
    missing = sorted(report["missing_keys"])
    if missing and type(model).__name__ == family.base_class:
        raise HubError(
            f"{rule} Found in {source} one without {missing}. Download or save the model again."
        )
    return model


def _mismatch(entry: Any) -> str:
    """A tensor of another shape, with both shapes where transformers tells them."""
    if isinstance(entry, str):
        return entry
    name, there, here = entry
    return f"{name}: {tuple(there)}, not {tuple(here)}"


def _reached(access: Access | None) -> dict[str, Any]:
    """How the base is reached: as the family is, but at its own commit."""
    if access is None:
        return {}
    given = {
        "token": access.token,
        "cache_dir": access.cache_dir,
        "local_files_only": access.local_files_only or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _as_it_was(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The type and the quantisation in which a base that is only named was loaded, from the config in the folder."""
    config = transformers.AutoConfig.from_pretrained(str(folder))
    kept = {"dtype": config.dtype} if wanted and config.dtype is not None else wanted
    quantised = getattr(config, "quantization_config", None)
    return kept if quantised is None else {**kept, "quantization_config": quantised}


def base_reference(base: Any) -> tuple[str, str]:
    """The name and the commit by which a base model can be loaded again; "" and "" if its weights must be kept.

    A model made in memory has no name. One of another class than its checkpoint has a head that the
    checkpoint lacks.
    """
    config = getattr(base, "config", None)
    name = getattr(config, "_name_or_path", "") or ""
    if type(base).__name__ not in (getattr(config, "architectures", None) or ()):
        return "", ""
    if not name:
        return "", ""
    return name, getattr(config, "_commit_hash", None) or (
        "" if Path(name).is_dir() else _only_snapshot(name)
    )


def _only_snapshot(name: str) -> str:
    """The commit of a repository of which the cache has one only: transformers 5 does not record what it loaded."""
    folder = (
        Path(constants.HF_HUB_CACHE)
        / repo_folder_name(repo_id=name, repo_type="model")
        / "snapshots"
    )
    found = [path.parent.name for path in folder.glob("*/config.json")]
    return found[0] if len(found) == 1 else ""


def body_name(model: nn.Module) -> str:
    """The name of the one transformers model inside a model with a head; "" where there is none, or several."""
    inside = [
        name
        for name, part in model.named_children()
        if isinstance(part, transformers.PreTrainedModel)
    ]
    return inside[0] if len(inside) == 1 else ""


def _saved_class(name: str) -> type[transformers.PreTrainedModel]:
    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise HubError(
            "The saved class of the base model must be a model class of transformers. Found"
            f" {name!r}. Write `from_pretrained(..., auto_class=...)` with the class that should"
            " load it."
        )
    return found
