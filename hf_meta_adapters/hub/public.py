"""What of a folder is published: its files, but not where they lie, nor on which machine."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd

from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub._needed_files import ADAPTER_CONFIG
from hf_meta_adapters.hub.base_model import is_repo_id
from hf_meta_adapters.hub.manifest import MANIFEST, Family, read_manifest
from hf_meta_adapters.hub.places import is_absolute, without_places
from hf_meta_adapters.hub.seal_text import sealed

KEPT_ROWS = "next_step_*.safetensors"
"""Rows of the training text, which `lookahead="next"` keeps in checkpoints."""

_LEFT_OUT = ("*tfevents*", ".git", ".cache", KEPT_ROWS)
"""Logs of TensorBoard, whose names tell the machine and whose contents the folder; the folders that
git and the client of the Hub keep; and text that only the run is to read.
"""

_SEAL = "checkpoint.json"
_RECORDS = (MANIFEST, "training_args.json", "trainer_state.json", "scores.json")
"""Files that say what was done; any text in them may name a place."""

_SETTINGS = "*config.json"
"""Files of transformers, PEFT and adapters. Of other texts in them, a path may be a part."""

_PLACES = ("path", "file", "dir", "folder")
"""Ends of the names of entries that hold places."""

_BASES = ("name_or_path", "_name_or_path", "base_model_name_or_path")
"""Entries that name a base. A part of a path could be the name of somebody else's."""

_NEEDED = "tokenizer_name_or_path"
"""The tokenizer of a prompt that began as a text; PEFT reads it whenever it makes the adapter."""


def public_family(family: Family) -> Family:
    """A manifest without places in what was recorded."""
    details = {
        name: without_places(entry)
        for name, entry in family.details.items()
        if not _is_unpublished_base(name, entry)
    }
    return replace(family, details=details)


def files_to_publish(folder: Path, *left_out: str) -> list[str]:
    """Every file in a folder that is published, by its path there.

    Args:
        folder: The folder.
        *left_out: Patterns of names; a folder of such a name is left out as a whole.
    """
    patterns = (*_LEFT_OUT, *left_out)
    found = []

    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        is_left_out = any(fnmatch(part, pattern) for part in parts for pattern in patterns)
        if path.is_file() and not is_left_out:
            found.append("/".join(parts))

    return found


def additions(
    folder: Path,
    paths: Iterable[str],
    *,
    target: str = "",
    run: Path | None = None,
    repo_id: str = "",
) -> list[CommitOperationAdd]:
    """What a commit adds to publish files of a folder.

    Args:
        folder: The folder.
        paths: The files, by their paths in it.
        target: The folder of the repository; default its root.
        run: The folder of the run that a checkpoint belongs to; default `folder`.
        repo_id: The repository, if its root becomes the folder: the adapters of languages then name
            it as their base, unless they need more than that.

    Returns:
        An addition for each file. Where a text names places, it is of the text without them, and
        the checksums of a manifest or a checkpoint are those of the files as they are published.

    Raises:
        HubError: If an adapter needs a tokenizer that only this machine has.
    """
    prefix = f"{target}/" if target else ""
    contents = _public_texts(folder, paths, run or folder, repo_id)

    operations = []
    for path, content in contents.items():
        source = str(folder / path) if content is None else content
        operations.append(CommitOperationAdd(f"{prefix}{path}", source))

    return operations


def _public_texts(
    folder: Path, paths: Iterable[str], run: Path, repo_id: str
) -> dict[str, bytes | None]:
    """Path → the content that is published; `None` for a file that is published as it is."""
    texts = {path: _public_text(folder / path, run) for path in paths}

    # Adapters next to a θ that is an adapter itself are of more than the base.
    if repo_id and (folder / MANIFEST).is_file():
        family = read_manifest(folder)
        if not family.theta_is_adapter:
            configs = {f"{key}/{ADAPTER_CONFIG}" for key in family.adapters(family.languages)}
            for path in configs & texts.keys():
                texts[path] = _based_on(texts[path] or (folder / path).read_bytes(), repo_id)

    if MANIFEST in texts:
        texts[MANIFEST] = _rehashed(folder, texts)
    if _SEAL in texts:
        texts[_SEAL] = _resealed(folder, texts)
    return texts


def _is_unpublished_base(name: str, entry: object) -> bool:
    """Whether an entry names a folder as the base, whose last part could be somebody's model."""
    return name == "base_model" and isinstance(entry, str) and not is_repo_id(entry)


def _public_text(path: Path, run: Path) -> bytes | None:
    """The content of a file without places; `None` if it is published as it is."""
    is_record = path.name in _RECORDS
    if not is_record and not fnmatch(path.name, _SETTINGS):
        return None

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None  # somebody else's file of that name

    public = without_places(content, run) if is_record else _public_settings(content)
    if public == content:
        return None
    return _json(public)


def _public_settings(settings: Any) -> Any:
    """Settings in which entries that hold places have none; those of a base are left out."""
    if isinstance(settings, list):
        return [_public_settings(entry) for entry in settings]
    if not isinstance(settings, dict):
        return settings

    public = {}
    for key, entry in settings.items():
        if not (key.endswith(_PLACES) and isinstance(entry, str) and is_absolute(entry)):
            public[key] = _public_settings(entry)
        elif key == _NEEDED:
            raise HubError(
                f"`{_NEEDED}` of an adapter must name a repository on the Hub, since the adapter is"
                f" not loaded without it. Found the folder {entry!r}, which others do not have."
                " Push the tokenizer first, and name it by its id there."
            )
        elif key not in _BASES:
            public[key] = without_places(entry)

    return public


def _based_on(config: bytes, repo_id: str) -> bytes:
    """The configuration of an adapter of PEFT that names no base, with that of the repository."""
    settings = json.loads(config)

    # Adapters of the library `adapters` do not name one.
    if not settings.get("peft_type") or settings.get("base_model_name_or_path"):
        return config
    return _json({**settings, "base_model_name_or_path": repo_id})


def _rehashed(folder: Path, texts: Mapping[str, bytes | None]) -> bytes | None:
    """The manifest with the checksums of texts that are not published as they are."""
    text = texts[MANIFEST]
    content = json.loads(text or (folder / MANIFEST).read_text(encoding="utf-8"))
    recorded = content.get("sha256", {})

    changed = {path: sha256(text).hexdigest() for path, text in texts.items() if text is not None}
    public = {path: changed.get(path, found) for path, found in recorded.items()}
    if public == recorded:
        return text
    return _json({**content, "sha256": public})


def _resealed(folder: Path, texts: Mapping[str, bytes | None]) -> bytes | None:
    """The seal of a checkpoint as it is published; `None` if every file is as it was."""
    seal = json.loads((folder / _SEAL).read_text(encoding="utf-8"))

    # What is not published is no part of the checkpoint where it is downloaded.
    files = {name: entry for name, entry in seal["files"].items() if not fnmatch(name, KEPT_ROWS)}

    for name in files:
        content = texts.get(name)
        if content is not None:
            files[name] = [len(content), zlib.crc32(content)]

    if files == seal["files"]:
        return None
    seal["files"] = files

    # Earlier versions wrote seals without a checksum.
    if "checksum" not in seal:
        return f"{json.dumps(seal, indent=1)}\n".encode()
    return sealed(seal).encode()


def _json(content: object) -> bytes:
    return f"{json.dumps(content, indent=2, ensure_ascii=False)}\n".encode()
