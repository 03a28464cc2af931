"""What is refused before any file of a model is written: links that lead out of its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hf_meta_adapters.errors import HubError

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

    for inside in (folder, *(folder / name for name in adapters)):
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
