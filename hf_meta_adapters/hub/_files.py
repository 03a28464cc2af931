"""One folder for a model and its languages: a transformers checkpoint, an adapter folder per language, a manifest.

config.json, model.safetensors    the shared weights; `AutoModel….from_pretrained` reads them without this package
<language>/                       one adapter, in the format of its own library
language_adapters.json            what belongs together
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch import Tensor, nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters._version import __version__
from hf_meta_adapters.errors import HubError, MetaAdapterError, check_languages

MANIFEST = "language_adapters.json"
SHARED_ADAPTER = "shared"
"""The name and the folder of the one adapter of `share_adapter=True`; no language may have it."""

_FORMAT = 1


@dataclass(frozen=True)
class Family:
    """The content of the manifest.

    Args:
        languages: The keys.
        backend: The name of the backend.
        shared: What θ is: "all", "none" or a regular expression.
        share_adapter: Whether one adapter, in the folder `shared/`, serves all languages.
        base_class: The class of the transformers model.
        details: What else was recorded, such as the training set-up.
    """

    languages: tuple[Language, ...]
    backend: str
    shared: str
    share_adapter: bool
    base_class: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def adapters(self, languages: Sequence[Language]) -> list[str]:
        """The folders of the adapters of some languages."""
        if self.backend == "none":
            return []
        return [SHARED_ADAPTER] if self.share_adapter else list(languages)


class AdapterFiles(Protocol):
    """What reads and writes the adapter of a language: a backend."""

    base: Any

    def save(self, language: str, directory: Path) -> None:
        """Write an adapter."""

    def load(self, language: str, directory: Path) -> None:
        """Read an adapter."""


def save_family(folder: Path, family: Family, backend: AdapterFiles, state: Mapping[str, Tensor]) -> None:
    """Write the shared weights as an ordinary transformers checkpoint, then every adapter, then the manifest.

    Args:
        folder: Where to; created if it is missing.
        family: The content of the manifest.
        backend: Holds the model and writes the adapters.
        state: The tensors of the base model under the names of its own checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    backend.base.save_pretrained(str(folder), state_dict=dict(state))
    for adapter in family.adapters(family.languages):
        backend.save(adapter, folder / adapter)
    content = {"format": _FORMAT, "hf_meta_adapters": __version__, **asdict(family)}
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, folder / MANIFEST)


def load_weights(
    folder: Path, family: Family, backend: AdapterFiles, state: Mapping[str, Tensor], languages: Sequence[Language]
) -> None:
    """Read shared weights and adapters into a model that has them already, in place.

    Args:
        folder: Where from.
        family: Its manifest.
        backend: Holds the model and reads the adapters.
        state: The live tensors of the base model under the names of its own checkpoint.
        languages: The languages to read.
    """
    saved = load_base(folder, family, type(backend.base), {}).state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(saved[name])
    for adapter in family.adapters(languages):
        backend.load(adapter, folder / adapter)


def load_base(folder: Path, family: Family, auto_class: Any, arguments: Mapping[str, Any]) -> nn.Module:
    """Load the shared weights without adapters.

    Args:
        folder: Where from.
        family: The manifest.
        auto_class: The class that loads them; `None` for the one that was saved.
        arguments: Further arguments of its `from_pretrained`.

    Returns:
        The transformers model.

    Raises:
        HubError: If the class is unknown.
    """
    kind: Any = auto_class or getattr(transformers, family.base_class, None)
    if not hasattr(kind, "from_pretrained"):
        raise HubError(
            f"The saved class of the base model must be one of transformers. Found {family.base_class!r}. Write "
            "`from_pretrained(..., auto_class=...)` with the class that should load it."
        )
    return kind.from_pretrained(str(folder), **{"use_safetensors": True, **arguments})


def read_manifest(folder: Path) -> Family:
    """Read and check `language_adapters.json`.

    Args:
        folder: The folder of a saved model.

    Returns:
        Its content.

    Raises:
        HubError: If it is missing, damaged, of a later format, or names unsafe languages.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise HubError(
            f"A saved model must have a file `{MANIFEST}`. Found none in {folder}. Name the folder that "
            "`save_pretrained` wrote."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("format")
        content.pop("hf_meta_adapters", None)
        if version != _FORMAT:
            raise HubError(
                f"This version reads format {_FORMAT} of `{MANIFEST}`. Found {version!r}. Install a newer "
                "hf-meta-adapters."
            )
        content["languages"] = check_languages(content["languages"])
        return Family(**content)
    except MetaAdapterError as error:
        raise HubError(f"`{MANIFEST}` in {folder} cannot be used. {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HubError(
            f"`{MANIFEST}` must be what `save_pretrained` wrote. Found in {folder}: {type(error).__name__}: {error}. "
            "Download or save it again."
        ) from error
