"""Relative links lead somewhere, and the reference has every public name."""

import re
from pathlib import Path

import pytest

import hf_meta_adapters
from tests.docs.pages import ROOT, pages

LINK = re.compile(r"\]\((?!https?://|mailto:|#)<?([^)#\s>]+)")
TEXTS = sorted({*pages(), *ROOT.glob("*.md"), *(ROOT / "recipes").rglob("*.md")})


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page: Path) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("name", sorted(set(hf_meta_adapters.__all__) - {"__version__"}))
def test_a_public_name_is_in_the_reference(name: str) -> None:
    reference = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").rglob("*.md"))
    line = f"::: hf_meta_adapters.{name}"
    assert re.search(rf"^::: [\w.]+\.{name}$", reference, re.MULTILINE), f"docs/reference must have a line `{line}`."


def test_links_are_found() -> None:
    text = "[a](b.md) ![c](d/e.png) [f](g.md#h) [i](https://j.k) [l](#m) [n](<o.md>)"
    assert LINK.findall(text) == ["b.md", "d/e.png", "g.md", "o.md"]
