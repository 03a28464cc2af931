"""One folder for a model and its languages: a transformers checkpoint, an adapter folder per language, a manifest.

config.json, model.safetensors    the shared weights; `AutoModel….from_pretrained` reads them without this package
<language>/                       one adapter, in the format of its own library
language_adapters.json            what belongs together
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn

from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub._manifest import MANIFEST, Family, read_manifest, write_manifest


class AdapterFiles(Protocol):
    """What reads and writes the adapter of a language: a backend."""

    base: Any

    def save(self, language: str, directory: Path) -> None:
        """Write an adapter."""

    def load(self, language: str, directory: Path, body: str | None = None) -> None:
        """Read an adapter."""


def save_family(
    folder: Path, family: Family, backend: AdapterFiles, state: Mapping[str, Tensor], **options: Any
) -> None:
    """Write the shared weights as an ordinary transformers checkpoint, then every adapter, then the manifest.

    Args:
        folder: Where to; created if it is missing.
        family: The content of the manifest.
        backend: Holds the model and writes the adapters.
        state: The tensors of the base model under the names of its own checkpoint.
        **options: Of the `save_pretrained` of transformers.
    """
    manifest = family.to_json()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # what is half overwritten is no saved model
    backend.base.save_pretrained(str(folder), state_dict=dict(state), **options)
    for adapter in family.adapters(family.languages):
        backend.save(adapter, folder / adapter)
    write_manifest(folder, manifest)


def load_weights(folder: Path, own: Family, backend: AdapterFiles, state: Mapping[str, Tensor]) -> None:
    """Read shared weights and adapters into a model that has them already, in place.

    Args:
        folder: Where from.
        own: What the manifest of the model would be; further languages in the folder are left out.
        backend: Holds the model and reads the adapters.
        state: The live tensors of the base model under the names of its own checkpoint.

    Raises:
        HubError: If the files are of another model, or damaged.
    """
    family = read_manifest(folder)
    wrong = [
        f"{name}={getattr(family, name)!r} where the model has {getattr(own, name)!r}"
        for name in ("base_class", "backend", "share_adapter")
        if getattr(family, name) != getattr(own, name)
    ]
    wrong += [f"no language {key!r}" for key in own.languages if key not in family.languages]
    if not wrong:
        saved = load_base(folder, family, type(backend.base), {}).state_dict()
        wrong = [
            f"{name} of shape {tuple(saved[name].shape) if name in saved else None}, not {tuple(tensor.shape)}"
            for name, tensor in state.items()
            if name not in saved or saved[name].shape != tensor.shape
        ]
    if wrong:
        raise HubError(
            f"A checkpoint must be of this very model. Found in {folder}: {'; '.join(wrong)}. Write "
            "`LanguageAdapterModel.from_pretrained(...)` to load it as the model that it is."
        )
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(saved[name])
    for adapter in family.adapters(own.languages):
        backend.load(adapter, folder / adapter)


def load_base(folder: Path, family: Family, auto_class: Any, arguments: Mapping[str, Any]) -> nn.Module:
    """Load the shared weights without adapters, in the type in which they were saved.

    Args:
        folder: Where from.
        family: The manifest.
        auto_class: The class that loads them; `None` for the one that was saved.
        arguments: Further arguments of its `from_pretrained`; files other than safetensors are never read.

    Returns:
        The transformers model.

    Raises:
        HubError: If the class is unknown, or files are missing or damaged.
    """
    kind: Any = auto_class or _saved_class(family.base_class)
    # transformers 4 would load in float32 whatever was saved
    as_saved = {} if {"dtype", "torch_dtype"} & set(arguments) else {"dtype": "auto"}
    fixed = {"use_safetensors": True, "output_loading_info": True}
    rule = "The shared weights must be a transformers checkpoint in safetensors format."
    try:
        model, report = kind.from_pretrained(str(folder), **as_saved, **{**arguments, **fixed})
    except (OSError, SafetensorError) as error:
        raise HubError(f"{rule} Found in {folder}: {error} Download or save the model again.") from error
    missing = sorted(report["missing_keys"])
    if missing and type(model).__name__ == family.base_class:
        raise HubError(f"{rule} Found in {folder} one without {missing}. Download or save the model again.")
    return model


def body_name(model: nn.Module) -> str:
    """The name of the one transformers model inside a model with a head; "" where there is none, or several."""
    inside = [name for name, part in model.named_children() if isinstance(part, transformers.PreTrainedModel)]
    return inside[0] if len(inside) == 1 else ""


def _saved_class(name: str) -> type[transformers.PreTrainedModel]:
    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise HubError(
            f"The saved class of the base model must be a model class of transformers. Found {name!r}. Write "
            "`from_pretrained(..., auto_class=...)` with the class that should load it."
        )
    return found
