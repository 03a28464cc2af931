"""The map of the package, drawn from the import contract in `.importlinter`.

`python -m tests.docs.house_map` writes docs/images/house.svg; a test compares it with the contract.
"""

from __future__ import annotations

import re
from configparser import ConfigParser
from html import escape

from tests.docs.pages import ROOT

PICTURE = ROOT / "docs" / "images" / "house.svg"
CONTRACT = ROOT / ".importlinter"

ROOMS = {
    "__main__": "python -m hf_meta_adapters",
    "cli": "the command hf-meta-adapters, and the arguments of recipes",
    "study": "the comparison of the paper: methods × languages × seeds",
    "pretraining": "from texts to a saved family",
    "finetuning": "tasks: within a language, zero-shot, few-shot",
    "training": "the Trainer: arguments, outer step, checkpoints, publishing",
    "steps": "batches in, gradients out",
    "evaluation": "tasks, scores by language",
    "vocabulary": "pieces of a new language",
    "modeling": "LanguageAdapterModel: θ, the φ of each language, and which is active",
    "backends": "how φ enters a model",
    "hub": "files, manifest, model card, the Hub",
    "meta": "the algorithm",
    "data": "which rows come next",
    "diagnostics": "what interferes, and where",
    "anatomy": "the parts of a transformer, by name",
    "results": "tables, pictures, reports",
    "bundled": "recipes, verses that travel along",
    "imports": "what the first import waits with",
    "products": "inner products of long vectors",
    "errors": "errors, language keys",
    "_typing": "shared types",
    "_version": "the version",
}
"""What each room is for; a room that is not here is not drawn."""

# In px; 720 wide in all, so that the text can still be read on a phone.
LEFT, WIDTH, HEIGHT, GAP = 36, 674, 54, 10
COLORS = {
    "framework": ("#f2f2f2", "#595959", "may name frameworks"),
    "data": ("#fdf0d5", "#8a5a00", "knows no model"),
    "mathematics": ("#dcebf7", "#0b5394", "knows no framework"),
}
"""What a room may know → fill, outline, and the words of the legend."""


def contract() -> ConfigParser:
    parser = ConfigParser()
    parser.read(CONTRACT, encoding="utf-8")
    return parser


def layers(parser: ConfigParser) -> list[list[str]]:
    """The rooms of each layer, from the top down."""
    lines = parser["importlinter:contract:layers"]["layers"].strip().splitlines()
    return [re.findall(r"\w+", line) for line in lines]


def without(parser: ConfigParser, name: str) -> set[str]:
    """The rooms that a contract keeps from naming a framework."""
    modules = parser[f"importlinter:contract:{name}"]["source_modules"].split()
    return {module.rpartition(".")[2] for module in modules}


def draw() -> str:
    """The picture, as SVG."""
    parser = contract()
    kinds = {room: kind for kind in ("data", "mathematics") for room in without(parser, kind)}

    rows = layers(parser)
    shapes: list[str] = []
    for number, rooms in enumerate(rows):
        top = GAP + number * (HEIGHT + GAP)
        width = (WIDTH - GAP * (len(rooms) - 1)) / len(rooms)
        for place, room in enumerate(rooms):
            left = LEFT + place * (width + GAP)
            shapes += box(room, kinds.get(room, "framework"), left, top, width)

    bottom = GAP + len(rows) * (HEIGHT + GAP)
    shapes += arrow(bottom) + legend(bottom)

    size = f"{LEFT + WIDTH + GAP} {bottom + 34}"
    words = " Below: ".join(map(", ".join, rows))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img"'
            ' font-family="system-ui, sans-serif" text-anchor="middle">',
            "<title>The rooms of hf_meta_adapters</title>",
            f"<desc>Imports point down. At the top: {escape(words)}.</desc>",
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *shapes,
            "</svg>\n",
        ]
    )


def box(room: str, kind: str, left: float, top: float, width: float) -> list[str]:
    fill, outline, _ = COLORS[kind]
    middle = left + width / 2
    return [
        f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{HEIGHT}" rx="6"'
        f' fill="{fill}" stroke="{outline}"/>',
        f'<text x="{middle:.1f}" y="{top + 23}" font-size="16" font-weight="600"'
        f' fill="#1b1b1b">{room}</text>',
        f'<text x="{middle:.1f}" y="{top + 42}" font-size="12.5"'
        f' fill="#1b1b1b">{escape(ROOMS[room])}</text>',
    ]


def arrow(bottom: int) -> list[str]:
    middle = bottom / 2
    return [
        f'<path d="M26 {GAP} V{bottom - GAP} m-5 -9 l5 9 l5 -9" fill="none" stroke="#1b1b1b"/>',
        f'<text x="16" y="{middle:.1f}" font-size="13" fill="#1b1b1b"'
        f' transform="rotate(-90 16 {middle:.1f})">imports point down</text>',
    ]


def legend(top: int) -> list[str]:
    shapes = []
    for place, (fill, outline, words) in enumerate(COLORS.values()):
        left = LEFT + place * WIDTH / len(COLORS)
        shapes += [
            f'<rect x="{left:.1f}" y="{top + 6}" width="16" height="16" rx="3" fill="{fill}"'
            f' stroke="{outline}"/>',
            f'<text x="{left + 24:.1f}" y="{top + 19}" font-size="13" fill="#1b1b1b"'
            f' text-anchor="start">{words}</text>',
        ]
    return shapes


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
