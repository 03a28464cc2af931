"""The rules of CONTRIBUTING.md that a machine can check: how the code is written, what the top
level holds, and nothing that belongs to one machine.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house import WIDEST_LINE, Figures, Source, measure

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "hf_meta_adapters").rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").rglob("*.py"))
TOP_LEVEL = {
    "hf_meta_adapters",
    "recipes",
    "tests",
    "docs",
    "pyproject.toml",
    "Makefile",
    "README.md",
    "LICENSE",
} | {
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "CITATION.cff",
}
BUILT = {"build", "dist", "site", "outputs", "__pycache__"}
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".cff", ".bib", ".json", ".ipynb", ".txt", ""}
# Written in pieces: this file is searched, too.
FOREIGN = {
    "a path of one machine": re.compile(r"(?<![\w.])/(?:work|home|root|Users|mnt|opt)" + r"/\w"),
    "a package index": re.compile("index" + r"-url|pypi\.org/" + "simple|file" + "://"),
    "how the work is organised": re.compile(r"\b[Ii]ssue " + r"\d"),
}


def text_files() -> Iterator[Path]:
    """The files that somebody wrote, without those that a tool built."""
    for top in ROOT.iterdir():
        # A folder in a clone, a file in a worktree of it.
        if top.name == ".git" or top.name in BUILT:
            continue
        if top.is_dir() and top.name.startswith((".venv", ".mypy", ".ruff", ".pytest", ".import")):
            continue

        for path in [top] if top.is_file() else top.rglob("*"):
            built = BUILT & set(path.relative_to(ROOT).parts)
            if path.is_file() and path.suffix in TEXT and not built:
                yield path


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


LIMITS = {
    "median_of_code_lines": (0, 100),
    "most_code_lines": (0, 250),
    "long_functions": (0, 0),
    "most_parameters": (0, 12),
    "blank_lines_per_100": (8, 100),
    "comment_lines_per_100": (4, 100),
    "wide_lines_in_percent": (0, 0.5),
    "conditional_expressions_per_1000": (0, 12),
    "heavy_comprehensions_per_1000": (0, 4),
    "any_annotations_in_percent": (0, 6),
    "getattr_and_hasattr_per_1000": (0, 7),
    "loose_private_modules": (0, 0),
    "private_imports": (0, 0),
    "public_names": (0, 100),
}
"""Figure of the whole package → the least and the most that it may be."""


@pytest.fixture(scope="module")
def package() -> Figures:
    return measure(ROOT / "hf_meta_adapters")


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_is_short(path: Path) -> None:
    assert len(Source(path.read_text(encoding="utf-8")).code) <= 250


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_is_short(path: Path) -> None:
    assert len(Source(path.read_text(encoding="utf-8")).code) <= 150


@pytest.mark.parametrize("path", MODULES + RECIPES, ids=name)
def test_a_function_is_short(path: Path) -> None:
    assert Source(path.read_text(encoding="utf-8")).long_functions() == {}


@pytest.mark.parametrize("path", MODULES + RECIPES, ids=name)
def test_a_line_is_narrow(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [number for number, line in enumerate(lines, 1) if len(line) > WIDEST_LINE] == []


@pytest.mark.parametrize("figure", LIMITS)
def test_the_package_is_written_as_a_house_to_live_in(figure: str, package: Figures) -> None:
    least, most = LIMITS[figure]
    assert least <= getattr(package, figure) <= most


AIRY = '''"""A module."""

import root.other._secret
from root.other._secret import thing
from root.other.seam import thing
from root._typing import Any

__all__ = ["f", "g"]


def f(a: Any, b: dict[str, Any], *, c: int = 0) -> int:
    """Do it.

    At length.
    """
    # why
    first = getattr(a, "x") if a else b  # behind code

    return [x for y in b for x in y] or hasattr(a, "y")


class C:
    """A class."""

    def g(self, a, /, *more: Any, **others: Any):
        return [[x for x in y] for y in a]
'''


@pytest.fixture
def tiny_package(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "one").mkdir(parents=True)
    (root / "one" / "module.py").write_text(AIRY)
    (root / "one" / "__init__.py").write_text('__all__ = ["a", "b", "c"]\n')
    (root / "_typing.py").write_text("")
    (root / "_loose.py").write_text("x = 1\n" * 7)
    return root


def test_figures_of_a_package_that_was_counted_by_hand(tiny_package: Path) -> None:
    assert measure(tiny_package) == Figures(
        modules=4,
        median_of_code_lines=7,  # of 0, 7 and 11
        most_code_lines=11,
        long_functions=0,
        most_parameters=3,
        blank_lines_per_100=20.0,  # 1 of 5 lines of bodies
        comment_lines_per_100=20.0,
        wide_lines_in_percent=0.0,
        conditional_expressions_per_1000=52.6,  # 1 in 11 + 7 + 1 code lines
        heavy_comprehensions_per_1000=105.3,
        any_annotations_in_percent=50.0,  # 2 of 4: `*more` and `**others` are no parameters
        getattr_and_hasattr_per_1000=105.3,
        loose_private_modules=1,
        private_imports=1,
        public_names=3,
    )


def test_lines_of_each_kind() -> None:
    source = Source(AIRY)
    assert source.docstrings == {1, 12, 13, 14, 15, 23}
    assert source.comments == {16}
    assert source.bodies == {16, 17, 18, 19, 26}
    assert source.public_names() == 2
    assert source.private_imports("root", "one") == ["root.other._secret"]
    assert source.private_imports("root", "other") == []


@pytest.mark.parametrize(("lines", "found"), [(50, {}), (51, {"f:1": 51})])
def test_a_long_function_is_found(lines: int, found: dict[str, int]) -> None:
    body = '    """One.\n\n    Two.\n    """\n' + "    # why\n\n    x = 1\n" * lines
    assert Source(f"def f():\n{body}").long_functions() == found


def test_wide_lines_are_code() -> None:
    wide, comment = "x = " + "1" * 97, "# " + "1" * 99
    assert Source(f"{wide}\n{comment}\nx = 1\n").wide_lines() == {1}
    assert Source(wide[:-1]).wide_lines() == set()


def test_the_top_level_is_fixed() -> None:
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert found - BUILT <= TOP_LEVEL


@pytest.mark.parametrize("what", FOREIGN)
def test_nothing_names(what: str) -> None:
    found = {
        f"{name(path)}:{number}": match[0]
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if (match := FOREIGN[what].search(line))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a path of one machine", 'open("/' + 'home/anna/x.txt")'),
        ("a package index", "pip install --index" + "-url"),
        ("how the work is organised", "see issue " + "7"),
    ],
)
def test_the_search_finds(what: str, line: str) -> None:
    assert FOREIGN[what].search(line)
