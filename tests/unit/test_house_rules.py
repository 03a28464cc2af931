"""The rules of CONTRIBUTING.md that a machine can check: sizes, and nothing that belongs to one
machine.
"""

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

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
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".cff", ".json", ".ipynb", ".txt", ""}
# Written in pieces: this file is searched, too.
FOREIGN = {
    "a path of one machine": re.compile(r"(?<![\w.])/(?:work|home|root|Users|mnt|opt)" + r"/\w"),
    "a package index": re.compile("index" + r"-url|pypi\.org/" + "simple|file" + "://"),
    "how the work is organised": re.compile(r"\b[Ii]ssue " + r"\d"),
}


def text_files() -> Iterator[Path]:
    """The files that somebody wrote, without those that a tool built."""
    for top in ROOT.iterdir():
        if top.name in BUILT or (
            top.name.startswith((".git", ".venv", ".mypy", ".ruff", ".pytest")) and top.is_dir()
        ):
            continue
        for path in [top] if top.is_file() else top.rglob("*"):
            if (
                path.is_file()
                and path.suffix in TEXT
                and not BUILT & set(path.relative_to(ROOT).parts)
            ):
                yield path


def length(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def body_length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None and first.end_lineno is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_is_short(path: Path) -> None:
    assert length(path) <= 300


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_is_short(path: Path) -> None:
    assert length(path) <= 150


@pytest.mark.parametrize("path", MODULES + RECIPES, ids=name)
def test_a_function_is_short(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert {
        function.name: size for function in functions(tree) if (size := body_length(function)) > 50
    } == {}


def test_the_median_module_is_short() -> None:
    sizes = [size for path in MODULES if (size := length(path))]
    assert statistics.median(sizes) <= 120


def test_the_docstring_is_not_counted() -> None:
    (function,) = functions(ast.parse('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n'))
    assert body_length(function) == 2


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
