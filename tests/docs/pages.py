"""The Python blocks of a Markdown page, and their execution in order in one namespace."""

import doctest
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ ]*\{?\.?(?P<language>[\w-]*)")
NEEDS = re.compile(r"<!--\s*needs:\s*(\w+)\s*-->")
NOT_EXECUTED = re.compile(r"<!--\s*not executed:?\s*(?P<reason>.*?)\s*-->")
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        code: The code.
        line: The line of its first statement on the page, from 1.
        not_executed: Why it does not run; `None` if it runs.
    """

    code: str
    line: int
    not_executed: str | None = None


def pages() -> list[Path]:
    """README.md and every page of the documentation."""
    return [path for path in (ROOT / "README.md",) if path.exists()] + sorted(
        (ROOT / "docs").rglob("*.md")
    )


def python_blocks(text: str) -> Iterator[Block]:
    """The blocks fenced as `python`, in order, at any indentation."""
    lines = text.splitlines()
    index, reason = 0, None
    while index < len(lines):
        if match := FENCE.match(lines[index]):
            first = index = index + 1
            closing = re.compile(rf"[ \t]*{match['fence'][0]}{{{len(match['fence'])},}}\s*")
            while index < len(lines) and not closing.fullmatch(lines[index]):
                index += 1
            if match["language"] in ("python", "py", "pycon"):
                yield Block(textwrap.dedent("\n".join(lines[first:index])), first + 1, reason)
        marker = NOT_EXECUTED.search(lines[index]) if index < len(lines) else None
        if marker or (index < len(lines) and lines[index].strip()):
            reason = marker["reason"] if marker else None
        index += 1


def execute(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    """Run a block in `namespace`; a traceback names the line of the page."""
    if block.code.lstrip().startswith(">>>"):
        test = doctest.DocTestParser().get_doctest(
            block.code, namespace, page.name, str(page), block.line - 1
        )
        # The parser gave it a copy, and the next block needs the names that this one defines.
        test.globs = namespace
        doctest.DebugRunner(optionflags=OPTIONS).run(test, clear_globs=False)
    else:
        exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), namespace)
