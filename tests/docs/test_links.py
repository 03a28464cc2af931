"""Relative links lead somewhere."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, pages

LINK = re.compile(r"\]\((?!https?://|mailto:|#)<?([^)#\s>]+)")
TEXTS = sorted({*pages(), *ROOT.glob("*.md"), *(ROOT / "recipes").rglob("*.md")})


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page: Path) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_links_are_found() -> None:
    text = "[a](b.md) ![c](d/e.png) [f](g.md#h) [i](https://j.k) [l](#m) [n](<o.md>)"
    assert LINK.findall(text) == ["b.md", "d/e.png", "g.md", "o.md"]
