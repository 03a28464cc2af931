"""Several results in one report: HTML in one file, Markdown, JSON and pictures."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Protocol

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.results.tables import markdown_to_html

__all__ = ["DiagnosticReport", "ReportSection"]

# A page that cannot fetch anything, whatever is in it.
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 52rem; margin: 0 auto;
  padding: 1rem; overflow-wrap: break-word; }}
h1 {{ font-size: 1.6rem; line-height: 1.2; }} h2 {{ font-size: 1.25rem; margin-top: 2.5rem; }}
div.table {{ overflow-x: auto; }} table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid #d5d5d5; padding: 0.25rem 0.6rem; text-align: right; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
figure {{ margin: 1rem 0; }} img {{ max-width: 100%; height: auto; }}
</style>
</head>
<body>
"""


class Result(Protocol):
    """What every result of a diagnostic can do."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""

    def to_markdown(self) -> str:
        """Return a table."""


@dataclass(frozen=True, eq=False)
class ReportSection:
    """One result in a report.

    Attributes:
        title: Its heading.
        text: What it shows and what it has to be compared with, a paragraph.
        result: The result.
        pictures: Name of a picture → a function that draws it into the file it is given, such as
            `result.plot`.
    """

    title: str
    text: str
    result: Result
    pictures: Mapping[str, Callable[[Path], Any]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class DiagnosticReport:
    """Results of diagnostics, to be written into a folder.

    Attributes:
        title: The heading.
        findings: The main results in words, a sentence each.
        sections: The results, by the name under which `report.json` has them.
        about: What was done, with what: model, texts, versions, command; ready for JSON.

    Example:
        >>> import tempfile
        >>> from hf_meta_adapters import interference_report
        >>> result = interference_report({"en": 80.0, "sw": 60.0}, {"en": 79.0, "sw": 63.0})
        >>> section = ReportSection("Interference", "Above 0: joint training is worse.", result)
        >>> report = DiagnosticReport("Two models", ("Swahili gains.",), {"interference": section})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report.save(folder)
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['report.html', 'report.json', 'report.md']
    """

    title: str
    findings: tuple[str, ...]
    sections: Mapping[str, ReportSection]
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pictures, ready for JSON."""
        results = {name: section.result.to_dict() for name, section in self.sections.items()}
        return {
            "title": self.title,
            "findings": list(self.findings),
            "about": dict(self.about),
            **results,
        }

    def to_markdown(self) -> str:
        """Return the report as a Markdown page that shows the pictures beside it."""
        parts = [f"# {self.title}", "\n".join(f"- {finding}" for finding in self.findings)]
        for section in self.sections.values():
            parts += [f"## {section.title}", section.text, section.result.to_markdown()]
            parts += [f"![{_caption(name)}]({name}.png)" for name in section.pictures]
        parts += [
            "## How it was made",
            "\n".join(f"- {name}: {value}" for name, value in self.about.items()),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `report.html` (everything in one file, for any browser, without a network), `.md`, `.json` and PNGs.

        Args:
            folder: Where to; made if it is not there. Files of these names are replaced, others
                left alone.

        Raises:
            ConfigurationError: If two sections have a picture of one name.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        names = [name for section in self.sections.values() for name in section.pictures]
        if len(set(names)) < len(names):
            raise ConfigurationError(
                f"Pictures of a report must have different names. Found {sorted(names)}. Rename"
                " those of one section."
            )
        for section in self.sections.values():
            for name, draw in section.pictures.items():
                draw(place / f"{name}.png")
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        (place / "report.json").write_text(text + "\n", encoding="utf-8")
        (place / "report.md").write_text(self.to_markdown(), encoding="utf-8")
        (place / "report.html").write_text(self._to_html(place), encoding="utf-8")

    def _to_html(self, place: Path) -> str:
        """Return the page, with the pictures of the folder inside it."""
        parts = [
            _HEAD.format(title=escape(self.title)),
            f"<h1>{escape(self.title)}</h1>",
            _list(self.findings),
        ]
        for section in self.sections.values():
            parts += [f"<h2>{escape(section.title)}</h2>", f"<p>{escape(section.text)}</p>"]
            parts += [markdown_to_html(section.result.to_markdown())]
            parts += [
                _figure(name, (place / f"{name}.png").read_bytes()) for name in section.pictures
            ]
        made = _list(f"{name}: {value}" for name, value in self.about.items())
        return "\n".join([*parts, "<h2>How it was made</h2>", made, "</body>\n</html>\n"])


def _list(items: Any) -> str:
    return "<ul>" + "".join(f"<li>{escape(str(item))}</li>" for item in items) + "</ul>"


def _figure(name: str, png: bytes) -> str:
    return (
        f'<figure><img alt="{escape(_caption(name))}"'
        f' src="data:image/png;base64,{b64encode(png).decode()}"></figure>'
    )


def _caption(name: str) -> str:
    return name.replace("_", " ").capitalize()
