"""The bundled verses: roles disjoint, languages aligned, and rebuilt from their source without a
difference.
"""

import gzip
import runpy
from pathlib import Path

import pytest

from hf_meta_adapters.data import load_local_datasets

LANGUAGES = ("en", "fr", "ru", "sw")
ROLES = ("train", "meta", "valid", "test")
FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "data"


def lines(name: str, role: str) -> list[str]:
    ending = ".gz" if name == "ids" else ".txt.gz"
    return gzip.decompress((FOLDER / name / f"{role}{ending}").read_bytes()).decode().splitlines()


def test_the_languages_of_the_folder_are_those_of_the_texts() -> None:
    assert tuple(load_local_datasets(FOLDER, "train", limit=1)) == LANGUAGES


@pytest.mark.parametrize("role", ROLES)
def test_a_line_is_the_same_verse_in_every_language(role: str) -> None:
    counts = {language: len(lines(language, role)) for language in LANGUAGES}
    longest = len(lines("ids", role))
    assert counts["en"] == counts["fr"] == counts["ru"] == longest
    assert counts["sw"] == (1500 if role == "train" else longest)
    assert longest >= 200


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_is_in_two_roles(language: str) -> None:
    letters = {
        role: {"".join(filter(str.isalnum, text.casefold())) for text in lines(language, role)}
        for role in ROLES
    }
    for index, role in enumerate(ROLES):
        assert "" not in letters[role]
        for other in ROLES[index + 1 :]:
            assert not letters[role] & letters[other], (role, other)


def test_no_chapter_is_in_two_roles() -> None:
    chapters = [{verse.rpartition(".")[0] for verse in lines("ids", role)} for role in ROLES]
    assert sum(map(len, chapters)) == len(set.union(*chapters))


def test_the_folder_fits_a_repository_and_carries_its_notice() -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*.gz")) < 3_000_000
    notice = (FOLDER / "NOTICE").read_text(encoding="utf-8")
    assert "Public Domain" in notice
    assert "CC0 1.0 Universal" in notice


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_table_of_sizes_is_true(language: str) -> None:
    row = (
        f"| {language} | " + " | ".join(f"{len(lines(language, role)):,}" for role in ROLES) + " |"
    )
    assert row in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_rebuilding_changes_nothing(shared_data: Path, tmp_path: Path) -> None:
    build = runpy.run_path(str(FOLDER / "build.py"))["build"]
    rebuilt = build(shared_data / "parallel", tmp_path)
    for name in ("ids", *LANGUAGES):
        for role in ROLES:
            assert rebuilt[name][role] == lines(name, role)
    first = {file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.rglob("*.gz")}
    build(shared_data / "parallel", tmp_path)
    assert first == {
        file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.rglob("*.gz")
    }
