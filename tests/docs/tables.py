"""The tables of the documentation that are made from results: `python -m tests.docs.tables` writes them into the pages.

A page says `<!-- table: NAME -->` before the table and `<!-- end of table -->` after it; NAME is a function here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from tests.docs.pages import ROOT, pages

RESULTS = ROOT / "recipes" / "results"
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n)(?:(?!<!-- ).)*(<!-- end of table -->)", re.DOTALL)


def result(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def closeness() -> str:
    """Median (and worst) cosine to the exact meta-gradient, by setting and β."""
    rows = [row for row in result("benchmark_fidelity_cpu")["rows"] if not row["setting"].startswith("indirect")]
    rates = sorted({row["inner_learning_rate"] for row in rows})
    cells = {(r["setting"], r["inner_learning_rate"]): f"{r['median']:.3f} ({r['worst']:.3f})" for r in rows}
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    header = ["setting", *(f"β = {rate:g}" for rate in rates)]
    return markdown(header, [[name, *(cells[name, rate] for rate in rates)] for name in settings])


def radius() -> str:
    """Median (and worst) cosine of the indirect part by finite differences to the exact one, by radius and β."""
    rows = [row for row in result("benchmark_fidelity_cpu")["rows"] if row["setting"].startswith("indirect part")]
    rates = sorted({row["inner_learning_rate"] for row in rows})
    cells = {(r["setting"], r["inner_learning_rate"]): f"{r['median']:.4f} ({r['worst']:.4f})" for r in rows}
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    header = ["scheme and radius", *(f"β = {rate:g}" for rate in rates)]
    names = {name: name.removeprefix("indirect part, ").replace("_", "-") for name in settings}
    return markdown(header, [[names[name], *(cells[name, rate] for rate in rates)] for name in settings])


TABLES: dict[str, Callable[[], str]] = {table.__name__: table for table in (closeness, radius)}


def filled(text: str) -> str:
    """A page with its tables as the results have them."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", text)


def with_tables() -> list[Path]:
    return [page for page in pages() if "<!-- table:" in page.read_text(encoding="utf-8")]


if __name__ == "__main__":
    for page in with_tables():
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
