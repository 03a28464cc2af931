"""The files of a tokenizer or a processor, next to those of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Tokenizer(Protocol):
    """What can be saved into the folder of a model: a tokenizer, a processor."""

    def save_pretrained(self, save_directory: str) -> object:
        """Write the files."""


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files of a tokenizer into the folder of a model.

    Args:
        tokenizer: The tokenizer, or the processor.
        folder: The folder.

    Raises:
        OSError: If they cannot be written, on a full disk for example.
    """
    try:
        tokenizer.save_pretrained(str(folder))
    except Exception as error:
        # The library tokenizers has no class for it: its Rust part raises a bare `Exception`.
        if type(error) is not Exception:
            raise
        raise OSError(
            f"A tokenizer must be written completely. Found, in {folder}: {error}. Free some space,"
            " or save into another folder."
        ) from error
