"""Links, with which files of a model would be files elsewhere: refused, or cut, before writing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_meta_adapters.errors import HubError
from hf_meta_adapters.results.files import replacing

_TEMPLATES = "additional_chat_templates"
"""A folder of a tokenizer, which may be saved next to the model."""


def check_no_links(folder: Path, adapters: Sequence[str]) -> None:
    """Refuse a folder in which writing a model would change files that lie elsewhere.

    Every link to a file, or to nothing, counts, since a tokenizer chooses the names of its own
    files. A link to another folder does not, unless it stands where an adapter will be written.

    Args:
        folder: Where the model will be written; may be missing, and may itself be a link.
        adapters: The folders in it that will be written too.

    Raises:
        HubError: If there are such links; it names them all.
    """
    links = [folder / name for name in (*adapters, _TEMPLATES) if (folder / name).is_symlink()]

    for inside in _folders(folder, adapters):
        # The files of a linked folder are not ours; that it is one has been seen above.
        if inside not in links and inside.is_dir():
            links += [path for path in inside.iterdir() if path.is_symlink() and not path.is_dir()]

    if links:
        names = sorted({path.relative_to(folder).as_posix() for path in links})
        raise HubError(
            "A model must be written into files of its own folder, never through links to other"
            f" places. Found links in {folder}: {', '.join(names)}. Delete these links or replace"
            " them by copies, or save into another folder."
        )


def cut_hard_links(folder: Path, adapters: Sequence[str]) -> None:
    """Give a folder files of its own, in place of files that have other names elsewhere.

    Their content stays the same; what is written to them afterwards changes no other file.

    Args:
        folder: Where the model will be written; may be missing.
        adapters: The folders in it that will be written too.
    """
    for inside in _folders(folder, (*adapters, _TEMPLATES)):
        if not inside.is_dir() or (inside != folder and inside.is_symlink()):
            continue

        for path in list(inside.iterdir()):
            if path.is_file() and not path.is_symlink() and path.stat().st_nlink > 1:
                with replacing(path) as new:
                    shutil.copy2(path, new)


def _folders(folder: Path, adapters: Sequence[str]) -> Iterator[Path]:
    """The folders in which a model has files."""
    yield folder
    for name in adapters:
        yield folder / name
