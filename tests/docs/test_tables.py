"""The tables in the documentation have the numbers of the result files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from tests.docs.tables import BLOCK, TABLES, filled, with_tables


@pytest.mark.parametrize("page", with_tables(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_tables_of_a_page_are_those_of_the_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(BLOCK.findall(text)) == text.count("<!-- table:")
    assert text == filled(text), "Run `python -m tests.docs.tables`."


def test_every_table_is_on_a_page() -> None:
    named = {
        name
        for page in with_tables()
        for _, name, _ in BLOCK.findall(page.read_text(encoding="utf-8"))
    }
    assert named == set(TABLES)
