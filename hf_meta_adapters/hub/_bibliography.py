"""The entries of `citations.bib`."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

PAPER = "wang-etal-2020-negative"
PACKAGE = "hf-meta-adapters"

_KEY = re.compile(r"@\w+\{([^,]+),")


def bibtex(key: str) -> str:
    """One entry, as it stands in the file."""
    return _entries()[key]


@cache
def _entries() -> dict[str, str]:
    """Key → entry; a blank line ends an entry."""
    text = files(__package__).joinpath("citations.bib").read_text(encoding="utf-8")
    return dict(zip(_KEY.findall(text), text.strip().split("\n\n"), strict=True))
