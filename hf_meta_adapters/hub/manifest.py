"""The manifest of a saved model: which languages belong together, and how they enter a model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from hf_meta_adapters._typing import Details, JsonObject, Language
from hf_meta_adapters._version import __version__
from hf_meta_adapters.errors import (
    ConfigurationError,
    HubError,
    LanguageError,
    check_languages,
)
from hf_meta_adapters.hub._json_file import read_json, shown

MANIFEST = "language_adapters.json"
SHARED_ADAPTER = "shared"
"""The folder of what all languages share: their adapter, or θ. No language may have its name."""

_FORMAT = 1
_RULE = f"`{MANIFEST}` must be what `save_pretrained` wrote."
_WEIGHTS = re.compile(r"\w[\w.-]*\.safetensors")
_KEYS = {
    "one_adapter_for_all": "share_adapter",
    "theta_is_adapter": "shared_adapter",
    "hashes": "sha256",
}
"""Attributes of `Family` that format 1 of the manifest keeps under another key."""

_PLACES = ("backend", "one_adapter_for_all", "theta_is_adapter", "base_model")
"""Attributes of `Family` that decide which folders weights are read from."""

_MOST_LANGUAGES = 4_000
"""More than any model has. Each takes a while, whether or not it has files of its own."""

_TYPES: dict[str, type] = {
    "languages": list,
    "backend": str,
    "shared": str,
    "one_adapter_for_all": bool,
    "theta_is_adapter": bool,
    "base_model": str,
    "base_revision": str,
    "base_class": str,
    "body": str,
    "details": dict,
    "files": dict,
    "hashes": dict,
}


@dataclass(frozen=True)
class Family:
    """The content of the manifest.

    Args:
        languages: The keys.
        backend: The name of the backend.
        shared: What θ is: "all", "none" or a regular expression.
        one_adapter_for_all: Whether one adapter, in the folder `shared/`, serves all languages.
        theta_is_adapter: Whether θ itself is an adapter, in the folder `shared/`.
        base_model: The name of the base model, a folder or a repository; "" if its weights are in
            the folder.
        base_revision: The commit of that repository; "" if it is unknown.
        base_class: The class of the transformers model.
        body: The name of the body, such as "roberta", inside a model with a head; "" for a model
            without one.
        details: Whatever else was recorded, such as the training set-up.
        files: The weights, path in the folder → bytes; a larger file is not downloaded.
        hashes: Weights and configurations, path in the folder → SHA-256; a file without an entry is
            not compared.
    """

    languages: tuple[Language, ...]
    backend: str
    shared: str
    one_adapter_for_all: bool
    theta_is_adapter: bool
    base_model: str
    base_revision: str
    base_class: str
    body: str
    details: Details = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)

    def adapters(self, languages: Sequence[Language]) -> list[str]:
        """The folders that hold the adapters of `languages`."""
        if self.backend == "none":
            return []

        if self.one_adapter_for_all:
            return [SHARED_ADAPTER]

        return list(languages)

    def to_json(self) -> str:
        """The text of the manifest.

        Raises:
            ConfigurationError: If JSON has no form for the details, or languages are too many.
        """
        if len(self.languages) > _MOST_LANGUAGES:
            raise ConfigurationError(
                f"A saved model must have at most {_MOST_LANGUAGES:,} languages. Found"
                f" {len(self.languages):,}. Make several models."
            )

        content: dict[str, object] = {"format": _FORMAT, "hf_meta_adapters": __version__}

        try:
            content |= {manifest_key(name): value for name, value in asdict(self).items()}
            return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"The details recorded in `{MANIFEST}` must be JSON. Found {dict(self.details)!r}:"
                f" {error}. Use numbers, strings, lists and dictionaries."
            ) from error


def manifest_key(attribute: str) -> str:
    """The key of the manifest under which an attribute of `Family` is saved."""
    return _KEYS.get(attribute, attribute)


def write_manifest(folder: Path, text: str) -> None:
    """Write `language_adapters.json` completely or not at all."""
    # A reader finds the old file or the new one, never half a file: `os.replace` is atomic.
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
        HubError: If it is missing, damaged, of a later format, names unsafe languages, or declares
            weights that its other entries leave no place for.
    """
    content = _read_object(folder)
    if content.get("format") != _FORMAT:
        raise HubError(
            f"{_RULE} Found in {folder} format {shown(content.get('format'))}, where this"
            f" version reads {_FORMAT}. Install the version of hf-meta-adapters that wrote it, or a"
            " newer one."
        )

    # Early manifests do not declare their files, and later ones no checksums.
    content = {"files": {}, "sha256": {}, **content}
    entries: JsonObject = {name: content.get(manifest_key(name)) for name in _TYPES}

    mistyped = [name for name, kind in _TYPES.items() if not isinstance(entries[name], kind)]
    if mistyped:
        listed = ", ".join(f"`{manifest_key(name)}` is {shown(entries[name])}" for name in mistyped)
        raise HubError(f"{_RULE} Found in {folder}: {listed}. Download or save it again.")

    number = len(entries["languages"])
    if number > _MOST_LANGUAGES:
        raise HubError(
            f"{_RULE} Found in {folder} {number:,} languages, where {_MOST_LANGUAGES:,} are the"
            " most. Split the family."
        )

    try:
        entries["languages"] = check_languages(entries["languages"])
    except LanguageError as error:
        raise HubError(f"{_RULE} Found in {folder} unsafe languages. {error}") from error

    family = Family(**{attribute.name: entries[attribute.name] for attribute in fields(Family)})
    _check_declared_files(folder, family)
    _check_agreement(folder, family)
    return family


def _read_object(folder: Path) -> JsonObject:
    """The JSON object in the manifest of a folder, as it stands there."""
    path = folder / MANIFEST
    if not path.is_file():
        raise HubError(
            f"A saved model must have a file `{MANIFEST}`. Found none in {folder}. Pass the folder"
            " that `save_pretrained` wrote."
        )

    content = read_json(path, _RULE)
    if not isinstance(content, dict):
        raise HubError(
            f"{_RULE} Found in {folder} a {type(content).__name__}. Download or save it again."
        )

    return content


def _unique(pairs: list[tuple[str, object]]) -> JsonObject:
    """An object of JSON, each of whose keys comes once: of two values one would be ignored."""
    found: JsonObject = {}

    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} comes twice")
        found[key] = value
    return found


def _check_declared_files(folder: Path, family: Family) -> None:
    """Refuse a manifest that declares anything but safetensors files in the family's folders."""
    unsafe = [
        f"{path[:200]!r}: {shown(size)}"
        for path, size in family.files.items()
        if not _is_declarable(family, path, size)
    ]
    if unsafe:
        raise HubError(
            f"{_RULE} `files` holds the sizes of safetensors files, in the folder and in those of"
            f" languages. Found in {folder}: {', '.join(unsafe[:3])}. Save the model again; convert"
            " a pickle first."
        )


def _check_agreement(folder: Path, family: Family) -> None:
    """Refuse declared weights that nothing would read, such as adapters of a family without any."""
    read_from = set(family.adapters(family.languages))
    if family.theta_is_adapter:
        read_from.add(SHARED_ADAPTER)
    if not family.base_model:
        # The shared weights lie at the top.
        read_from.add("")

    unread = [path for path in family.files if path.rpartition("/")[0] not in read_from]
    if unread:
        content = asdict(family)
        entries = ", ".join(f"`{manifest_key(name)}`: {shown(content[name])}" for name in _PLACES)
        raise HubError(
            f"{_RULE} Its other entries must agree with the weights that `files` declares. Found in"
            f" {folder} {entries}, by which nothing is read from {', '.join(unread[:3])}. Download"
            " or save the model again."
        )


def _is_declarable(family: Family, path: str, size: object) -> bool:
    *parents, name = path.split("/")
    folders = ([], [SHARED_ADAPTER], *([key] for key in family.languages))
    if parents not in folders or not _WEIGHTS.fullmatch(name):
        return False

    # Not `isinstance`: a JSON `true` is an `int` to Python.
    return type(size) is int and size > 0
