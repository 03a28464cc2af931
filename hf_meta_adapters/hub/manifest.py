"""The manifest of a saved model: which languages belong together, and how they are put into a model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hf_meta_adapters._typing import Language
from hf_meta_adapters._version import __version__
from hf_meta_adapters.errors import (
    ConfigurationError,
    HubError,
    LanguageError,
    check_languages,
)

MANIFEST = "language_adapters.json"
SHARED_ADAPTER = "shared"
"""The folder of what all languages share: the one adapter of `share_adapter=True`, or θ. No language may have it."""

_FORMAT = 1
_WEIGHTS = re.compile(r"\w[\w.-]*\.safetensors")
_TYPES = {
    "languages": list,
    "backend": str,
    "shared": str,
    "share_adapter": bool,
    "shared_adapter": bool,
    "base_model": str,
    "base_revision": str,
    "base_class": str,
    "body": str,
    "details": dict,
    "files": dict,
}


@dataclass(frozen=True)
class Family:
    """The content of the manifest.

    Args:
        languages: The keys.
        backend: The name of the backend.
        shared: What θ is: "all", "none" or a regular expression.
        share_adapter: Whether one adapter, in the folder `shared/`, serves all languages.
        shared_adapter: Whether θ is an adapter, in the folder `shared/`.
        base_model: The name of the base model, a folder or a repository; "" if its weights are in
            the folder.
        base_revision: The commit of that repository; "" if it is not known.
        base_class: The class of the transformers model.
        body: The name of the body, such as "roberta", inside a model with a head; "" for a model
            without one.
        details: What else was recorded, such as the training set-up.
        files: The weights, by their path in the folder → bytes: what is larger is not downloaded.
    """

    languages: tuple[Language, ...]
    backend: str
    shared: str
    share_adapter: bool
    shared_adapter: bool
    base_model: str
    base_revision: str
    base_class: str
    body: str
    details: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)

    def adapters(self, languages: Sequence[Language]) -> list[str]:
        """The folders of the adapters of some languages."""
        if self.backend == "none":
            return []
        return [SHARED_ADAPTER] if self.share_adapter else list(languages)

    def to_json(self) -> str:
        """The text of the manifest.

        Raises:
            ConfigurationError: If JSON has no form for the details.
        """
        try:
            content = {"format": _FORMAT, "hf_meta_adapters": __version__, **asdict(self)}
            return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"What is recorded in `{MANIFEST}` must be JSON. Found {dict(self.details)!r}:"
                f" {error}. Write numbers, strings, lists and dictionaries."
            ) from error


def write_manifest(folder: Path, text: str) -> None:
    """Write `language_adapters.json` as a whole or not at all."""
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, folder / MANIFEST)


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
            f"A saved model must have a file `{MANIFEST}`. Found none in {folder}. Name the folder"
            " that `save_pretrained` wrote."
        )
    rule = f"`{MANIFEST}` must be what `save_pretrained` wrote."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HubError(
            f"{rule} Found in {folder} no JSON: {error}. Download or save it again."
        ) from error
    if not isinstance(content, dict):
        raise HubError(
            f"{rule} Found in {folder} a {type(content).__name__}. Download or save it again."
        )
    if content.get("format") != _FORMAT:
        raise HubError(
            f"{rule} Found in {folder} format {content.get('format')!r}, where this version reads"
            f" {_FORMAT}. Install the version of hf-meta-adapters that wrote it, or a newer one."
        )
    content.setdefault("files", {})
    if wrong := [name for name, kind in _TYPES.items() if not isinstance(content.get(name), kind)]:
        found = ", ".join(f"`{name}` is {content.get(name)!r}" for name in wrong)
        raise HubError(f"{rule} Found in {folder}: {found}. Download or save it again.")
    try:
        content["languages"] = check_languages(content["languages"])
    except LanguageError as error:
        raise HubError(f"{rule} Found in {folder} unsafe languages. {error}") from error
    family = Family(**{one.name: content[one.name] for one in fields(Family)})
    if unsafe := [
        f"{path!r}: {size!r}"
        for path, size in family.files.items()
        if not _is_declared(family, path, size)
    ]:
        raise HubError(
            f"{rule} `files` holds the sizes of safetensors files, in the folder and in those of"
            f" languages. Found in {folder}: {', '.join(unsafe[:3])}. Save the model again; a"
            " pickle has to be converted first."
        )
    return family


def _is_declared(family: Family, path: str, size: object) -> bool:
    *parents, name = path.split("/")
    folders = ([], [SHARED_ADAPTER], *([key] for key in family.languages))
    return (
        parents in folders
        and _WEIGHTS.fullmatch(name) is not None
        and type(size) is int
        and size > 0
    )
