"""Where the files are that travel with the package."""

from __future__ import annotations

from pathlib import Path

__all__ = ["VERSES", "recipes_folder", "texts_folder", "verses_folder"]

VERSES = "verses"
"""The name of the bundled verses, wherever a folder of texts is asked for."""


def recipes_folder() -> Path:
    """Return the folder of the recipes: inside the installed package, or at the top of a clone.

    Returns:
        The folder, with `configs`, `accelerate` and `data` in it.

    Example:
        >>> (recipes_folder() / "configs" / "wikiann.yaml").is_file()
        True
    """
    here = Path(__file__).resolve().parent

    # A build copies the folder here. In a clone, and in an editable installation of one, the copy
    # at the top is the only one.
    installed = here / "recipes"
    if installed.is_dir():
        return installed

    return here.parents[1] / "recipes"


def verses_folder() -> Path:
    """Return the folder of the bundled verses, with <language>/<split>.txt.gz in it.

    Returns:
        The folder.

    Example:
        >>> (verses_folder() / "sw" / "train.txt.gz").is_file()
        True
    """
    return recipes_folder() / "data"


def texts_folder(name: str | Path) -> Path:
    """Return the folder that a name means: `"verses"` is the bundled one, unless one is here.

    Args:
        name: A folder, or `"verses"`.

    Returns:
        The folder. It need not exist.

    Example:
        >>> texts_folder("texts").name
        'texts'
        >>> texts_folder("verses") == verses_folder()
        True
    """
    path = Path(name)
    if str(name) == VERSES and not path.is_dir():
        return verses_folder()

    return path
