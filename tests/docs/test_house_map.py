"""The map of the house is that of the import contract, and paths in the texts about it exist."""

import re
from xml.etree import ElementTree

import pytest

from tests.docs import house_map
from tests.docs.house_map import PICTURE, ROOMS, contract, draw, layers, without
from tests.docs.pages import ROOT

TEXTS = ("CONTRIBUTING.md", "docs/explanation/architecture.md")
PATH = re.compile(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|txt|md|yaml)|(?:[a-z_]+/)+)`")


def paths(text: str) -> list[str]:
    """The files and folders that a text names in backticks; a place to be filled in has <…>."""
    return PATH.findall(text)


def test_the_picture_is_that_of_the_contract() -> None:
    message = "Run `python -m tests.docs.house_map`."
    assert PICTURE.read_text(encoding="utf-8") == draw(), message


def test_every_room_is_drawn_and_has_words() -> None:
    rooms = [room for rooms in layers(contract()) for room in rooms]
    assert sorted(rooms) == sorted(ROOMS)
    texts = [part.text for part in ElementTree.fromstring(draw()).iter() if part.text]
    assert set(rooms) | set(ROOMS.values()) <= set(texts)


def test_a_word_fits_its_box() -> None:
    for rooms in layers(contract()):
        width = house_map.WIDTH / len(rooms) - house_map.GAP
        for room in rooms:
            assert len(ROOMS[room]) * 6.3 < width, room


def test_a_change_of_the_contract_changes_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    before, parser = draw(), contract()
    section = parser["importlinter:contract:layers"]
    section["layers"] = section["layers"].replace("(steps) | (evaluation)", "(evaluation)\n(steps)")
    monkeypatch.setattr(house_map, "contract", lambda: parser)
    assert draw() != before


def test_what_a_room_must_not_know_is_read() -> None:
    assert without(contract(), "mathematics") == {
        "meta",
        "diagnostics",
        "anatomy",
        "results",
        "products",
    }
    assert without(contract(), "data") == {"data"}


@pytest.mark.parametrize("name", TEXTS)
def test_a_path_that_is_named_exists(name: str) -> None:
    named = paths((ROOT / name).read_text(encoding="utf-8"))
    assert len(named) > 2
    homes = (ROOT, ROOT / "hf_meta_adapters")
    assert [one for one in named if not any((home / one).exists() for home in homes)] == []


def test_paths_are_found() -> None:
    text = "`meta/_gradient.py` `tests/unit/` `<task>.py` `make test` `name` `tests/locked.txt`"
    assert paths(text) == ["meta/_gradient.py", "tests/unit/", "tests/locked.txt"]
