"""How a package is written, in numbers: what `tests/unit/test_house_rules.py` sets limits to.

`python -m tests.house hf_meta_adapters` prints them. *Code lines* are lines without blank lines,
comments and docstrings. Blank lines and comments are counted in the bodies of functions, without
their docstrings; a comment behind code is no comment line.
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_OF_THE_ROOT = {"__init__.py", "__main__.py", "_typing.py", "_version.py"}

LONGEST_FUNCTION = 50
WIDEST_LINE = 100


class Source:
    """A file, and what stands on each of its lines, which are counted from 1."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = text.splitlines()
        self.tree = ast.parse(text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def functions(self) -> list[Function]:
        return [node for node in self.nodes if isinstance(node, Function)]

    @cached_property
    def docstrings(self) -> set[int]:
        """The lines of docstrings."""
        lines: set[int] = set()
        for node in self.nodes:
            if isinstance(node, ast.Module | ast.ClassDef | Function) and node.body:
                first = node.body[0]
                if isinstance(first, ast.Expr) and _is_string(first.value):
                    lines |= _span(first, first)
        return lines

    @cached_property
    def comments(self) -> set[int]:
        """The lines that hold a comment and nothing else."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        starts = [token.start for token in tokens if token.type == tokenize.COMMENT]
        return {line for line, column in starts if not self.lines[line - 1][:column].strip()}

    @cached_property
    def blank(self) -> set[int]:
        return {number for number, line in enumerate(self.lines, 1) if not line.strip()}

    @cached_property
    def code(self) -> set[int]:
        """The lines that count."""
        return set(range(1, len(self.lines) + 1)) - self.docstrings - self.comments - self.blank

    @cached_property
    def bodies(self) -> set[int]:
        """The lines inside functions, without docstrings."""
        lines: set[int] = set()
        for function in self.functions:
            lines |= self.body(function)
        return lines

    def body(self, function: Function) -> set[int]:
        """The lines of a function, without its header and without docstrings."""
        return _span(function.body[0], function) - self.docstrings

    def long_functions(self) -> dict[str, int]:
        """The functions that are too long, by name and line → their code lines."""
        sizes = {
            f"{each.name}:{each.lineno}": self.body(each) & self.code for each in self.functions
        }
        return {name: len(lines) for name, lines in sizes.items() if len(lines) > LONGEST_FUNCTION}

    def wide_lines(self) -> set[int]:
        """The code lines that are too wide."""
        return {line for line in self.code if len(self.lines[line - 1]) > WIDEST_LINE}

    def parameters(self) -> list[int]:
        """The number of parameters of each function, without `self` and `cls`."""
        named = [_parameters(function) for function in self.functions]
        return [sum(one.arg not in ("self", "cls") for one in each) for each in named]

    def annotations(self) -> Iterator[ast.expr]:
        """Every annotation of a parameter or of a result."""
        for function in self.functions:
            for annotation in (
                *(one.annotation for one in _parameters(function)),
                function.returns,
            ):
                if annotation is not None:
                    yield annotation

    def public_names(self) -> int:
        """The length of `__all__`."""
        return sum(
            len(node.value.elts)
            for node in self.nodes
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.List | ast.Tuple)
            and any(_is_name(target, "__all__") for target in node.targets)
        )

    def private_imports(self, root: str, package: str) -> list[str]:
        """The private modules of other packages of `root` that a module of `package` imports."""
        found = []
        for node in self.nodes:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{root}."):
                _, home, *inner = str(node.module).split(".")
                if home != package and inner and inner[-1].startswith("_"):
                    found.append(str(node.module))
        return found


@dataclass(frozen=True)
class Figures:
    """A package in numbers; rates are rounded to one place."""

    modules: int
    median_of_code_lines: float
    most_code_lines: int
    long_functions: int
    most_parameters: int
    blank_lines_per_100: float
    comment_lines_per_100: float
    wide_lines_in_percent: float
    conditional_expressions_per_1000: float
    heavy_comprehensions_per_1000: float
    any_annotations_in_percent: float
    getattr_and_hasattr_per_1000: float
    loose_private_modules: int
    private_imports: int
    public_names: int


def measure(root: Path) -> Figures:
    """Measure every module of a package."""
    sources = {path: Source(path.read_text("utf-8")) for path in sorted(root.rglob("*.py"))}
    files = list(sources.values())
    sizes = [len(one.code) for path, one in sources.items() if path.name != "__init__.py"] or [0]

    code = sum(len(one.code) for one in files)
    bodies = sum(len(one.bodies) for one in files)
    annotations = [annotation for one in files for annotation in one.annotations()]
    nodes = [node for one in files for node in one.nodes]

    return Figures(
        modules=len(files),
        median_of_code_lines=statistics.median(sizes),
        most_code_lines=max(sizes),
        long_functions=sum(len(one.long_functions()) for one in files),
        most_parameters=max((count for one in files for count in one.parameters()), default=0),
        blank_lines_per_100=_rate(100, (len(one.bodies & one.blank) for one in files), bodies),
        comment_lines_per_100=_rate(100, (len(one.bodies & one.comments) for one in files), bodies),
        wide_lines_in_percent=_rate(100, (len(one.wide_lines()) for one in files), code),
        conditional_expressions_per_1000=_rate(
            1000, (isinstance(node, ast.IfExp) for node in nodes), code
        ),
        heavy_comprehensions_per_1000=_rate(1000, map(_is_heavy, nodes), code),
        any_annotations_in_percent=_rate(100, map(_has_any, annotations), len(annotations)),
        getattr_and_hasattr_per_1000=_rate(1000, map(_asks_for_attributes, nodes), code),
        loose_private_modules=sum(
            path.name.startswith("_") and path.name not in _OF_THE_ROOT
            for path in root.glob("*.py")
        ),
        private_imports=sum(
            len(one.private_imports(root.name, path.relative_to(root).parts[0]))
            for path, one in sources.items()
        ),
        public_names=sum(
            one.public_names() for path, one in sources.items() if path.name == "__init__.py"
        ),
    )


def _rate(per: int, counts: Iterable[int], total: int) -> float:
    return round(per * sum(counts) / max(total, 1), 1)


def _span(first: ast.stmt, last: ast.stmt) -> set[int]:
    assert last.end_lineno is not None
    return set(range(first.lineno, last.end_lineno + 1))


def _parameters(function: Function) -> list[ast.arg]:
    arguments = function.args
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


def _is_string(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_heavy(node: ast.AST) -> bool:
    """Whether a comprehension has two generators, or another comprehension inside."""
    if not isinstance(node, _COMPREHENSIONS):
        return False
    inside = (part for part in ast.walk(node) if part is not node)
    return len(node.generators) > 1 or any(isinstance(part, _COMPREHENSIONS) for part in inside)


def _has_any(annotation: ast.expr) -> bool:
    return any(_is_name(part, "Any") for part in ast.walk(annotation))


def _asks_for_attributes(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and (
        _is_name(node.func, "getattr") or _is_name(node.func, "hasattr")
    )


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        figures = measure(Path(argument).resolve())
        for field in fields(figures):
            print(f"{field.name.replace('_', ' '):40}{getattr(figures, field.name):>10}")
