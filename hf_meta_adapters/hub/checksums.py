"""The SHA-256 of each file that a saved model is loaded from: recorded by saving, then compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from huggingface_hub.utils.sha import sha_fileobj

from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub._needed_files import needed_files
from hf_meta_adapters.hub.manifest import MANIFEST, Family, read_manifest

_comparing: ContextVar[bool] = ContextVar("comparing", default=True)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, as the Hub shows it."""
    with path.open("rb") as file:
        return sha_fileobj(file).hex()


def checksums(folder: Path, family: Family) -> dict[str, str]:
    """The SHA-256 of every file in a folder that a family is loaded from.

    That is weights and configurations. The card may be edited, and this package does not read the
    files of a tokenizer.

    Args:
        folder: Where the family was saved.
        family: Its manifest, with the files of weights.
    """
    weights, texts = needed_files(family, family.languages)
    paths = [path for path in (*weights, *texts) if (folder / path).is_file()]
    return {path: file_sha256(folder / path) for path in paths}


def check_files(folder: Path, family: Family, languages: Sequence[str]) -> None:
    """Refuse files that are not those that were saved, by their sizes and checksums.

    Args:
        folder: The folder of a saved model.
        family: Its manifest; that of an earlier version has no checksums, and is compared as far
            as it goes.
        languages: Those to load; files of others are not read.

    Raises:
        HubError: If there are any. It names them all, and says what to do.
    """
    if not _comparing.get():
        return

    weights, texts = needed_files(family, languages)
    faults = [_fault(folder, family, path) for path in (*weights, *texts)]
    _refuse(folder, [fault for fault in faults if fault])


def check_adapter_files(directory: Path) -> None:
    """Refuse a damaged adapter of a saved model; one that lies elsewhere has no checksums.

    Args:
        directory: The folder of one adapter, perhaps inside that of a saved model.

    Raises:
        HubError: If files of it are not those that were saved.
    """
    folder = directory.absolute().parent
    if not (folder / MANIFEST).is_file():
        return

    family = read_manifest(folder)
    paths = [path for path in family.hashes if path.startswith(f"{directory.name}/")]
    faults = [_fault(folder, family, path) for path in paths]
    _refuse(folder, [fault for fault in faults if fault])


@contextmanager
def compared_before() -> Iterator[None]:
    """A context in which loading compares nothing, after a comparison with a checkpoint's seal."""
    token = _comparing.set(False)
    try:
        yield
    finally:
        _comparing.reset(token)


def _fault(folder: Path, family: Family, path: str) -> str:
    """How a file differs from what the manifest records of it; empty if it does not."""
    size, checksum = family.files.get(path), family.hashes.get(path)
    if size is None and checksum is None:
        return ""
    if not (folder / path).is_file():
        # Those who read weights and adapters say more: there may be a pickle instead.
        return "" if path in family.files or "/" in path else f"{path} is missing"

    # Cheaper than the checksum, and it says more: most damaged files have been cut off.
    found = (folder / path).stat().st_size
    if size is not None and found != size:
        return f"{path} has {found:,} bytes instead of {size:,}"

    if checksum is not None and file_sha256(folder / path) != checksum:
        return f"{path} has other content than was saved"
    return ""


def _refuse(folder: Path, faults: Sequence[str]) -> None:
    if not faults:
        return

    # In the cache of the Hub a file is a link to the copy that has to go.
    remedy = "Save or copy the model again, or leave a damaged language out"
    if folder.parent.name == "snapshots":
        damaged = [(folder / fault.split(" ")[0]).resolve() for fault in faults]
        remedy = f"Delete {', '.join(map(str, damaged))} and load again"

    raise HubError(
        f"The files of a saved model must be those that `{MANIFEST}` records. Found in {folder}:"
        f" {'; '.join(faults)}. {remedy}. If you changed a file on purpose, delete its entry under"
        f" `sha256` in `{MANIFEST}` and, if its size has changed, correct that under `files`."
    )
