"""Several results in one report: HTML in a single file, Markdown, JSON and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.results._html import (
    bullet_list,
    markdown_to_html,
    page,
    paragraph,
    picture,
    section_heading,
)
from hf_meta_adapters.results.files import replacing, write_text

if TYPE_CHECKING:
    import os

__all__ = ["DiagnosticReport", "ReportSection"]

_LAST_HEADING = "How it was made"


class Result(Protocol):
    """What a result must be able to do to be part of a report."""

    def to_dict(self) -> Mapping[str, object]:
        """Return everything, ready for JSON."""

    def to_markdown(self) -> str:
        """Return tables and paragraphs."""


@dataclass(frozen=True, eq=False)
class ReportSection:
    """One result in a report.

    Attributes:
        title: Its heading.
        text: A paragraph on what it shows and what to compare it with.
        result: The result.
        pictures: Name of a picture → a function that draws it into a given file, such as
            `result.plot`.
    """

    title: str
    text: str
    result: Result
    pictures: Mapping[str, Callable[[Path], object]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class DiagnosticReport:
    """Results of diagnostics that can be written into a folder.

    Attributes:
        title: The heading.
        findings: The main results in words, a sentence each.
        sections: Name in `report.json` → a result.
        about: How the results were made: model, texts, versions, command; ready for JSON.
        verdict: What the results amount to, at the top; `verdict` in `report.json`.

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
    about: Mapping[str, object] = field(default_factory=dict)
    verdict: Result | None = None

    def to_dict(self) -> dict[str, object]:
        """Return everything except the pictures, ready for JSON."""
        results = {name: section.result.to_dict() for name, section in self.sections.items()}
        if self.verdict is not None:
            results = {"verdict": self.verdict.to_dict(), **results}

        return {
            "title": self.title,
            "findings": list(self.findings),
            "about": dict(self.about),
            **results,
        }

    def to_markdown(self) -> str:
        """Return the report as a Markdown page that shows the pictures next to it."""
        blocks = [f"# {self.title}"]
        if self.verdict is not None:
            blocks.append(self.verdict.to_markdown())
        blocks.append("\n".join(f"- {finding}" for finding in self.findings))

        for section in self.sections.values():
            blocks += [f"## {section.title}", section.text, section.result.to_markdown()]
            blocks += [f"![{_caption(name)}]({name}.png)" for name in section.pictures]

        blocks += [f"## {_LAST_HEADING}", "\n".join(f"- {line}" for line in self._about_lines())]
        return "\n\n".join(block for block in blocks if block) + "\n"

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `report.html`, `report.md`, `report.json` and the pictures as PNG files.

        `report.html` holds everything, for any browser, without a network.

        Args:
            folder: The folder; created if it does not exist. Files of these names are replaced,
                others left alone.

        Raises:
            ConfigurationError: If two sections have a picture of the same name, or the package
                Markdown is missing, or matplotlib where there are pictures.
        """
        names = [name for section in self.sections.values() for name in section.pictures]
        if len(set(names)) < len(names):
            raise ConfigurationError(
                f"Pictures of a report must have different names. Found {sorted(names)}. Rename"
                " those of one section."
            )

        # Before the first file is written: a missing package must not leave half a report.
        tables = [markdown_to_html(s.result.to_markdown()) for s in self.sections.values()]

        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        for section in self.sections.values():
            for name, draw in section.pictures.items():
                with replacing(place / f"{name}.png", ending=".png") as new:
                    draw(new)

        # `json` would write NaN, which no other program reads: no report is better than that one.
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        write_text(place / "report.json", text)
        write_text(place / "report.md", self.to_markdown())
        write_text(place / "report.html", page(self.title, self._html_blocks(place, tables)))

    def _html_blocks(self, place: Path, tables: list[str]) -> Iterator[str]:
        """Yield the blocks of the page, with the tables given and the pictures of a folder."""
        if self.verdict is not None:
            yield markdown_to_html(self.verdict.to_markdown())
        if self.findings:
            yield bullet_list(self.findings)

        for section, table in zip(self.sections.values(), tables, strict=True):
            yield section_heading(section.title)
            yield paragraph(section.text)
            yield table
            # Inside the page, so that it can be mailed or moved without the folder.
            for name in section.pictures:
                yield picture(_caption(name), (place / f"{name}.png").read_bytes())

        yield section_heading(_LAST_HEADING)
        yield bullet_list(self._about_lines())

    def _about_lines(self) -> list[str]:
        return [f"{name}: {value}" for name, value in self.about.items()]


def _caption(name: str) -> str:
    return name.replace("_", " ").capitalize()
