"""The recipes and configurations that travel with the package, found by name or by path."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_meta_adapters.bundled.folders import recipes_folder
from hf_meta_adapters.cli.nearest import did_you_mean
from hf_meta_adapters.errors import ConfigurationError

__all__ = [
    "Entry",
    "bundled_configs",
    "bundled_launchers",
    "bundled_recipes",
    "find_config",
    "find_launcher",
    "find_recipe",
]

MEASUREMENTS = re.compile(r"benchmark_|gpu$|soak|conflict_on_|interference_factors")
"""How recipes begin that measure this package, rather than use it."""


@dataclass(frozen=True)
class Entry:
    """A bundled file.

    Attributes:
        path: The file.
        about: What it does, in one line.
        recipe: For a configuration, the name of its recipe.
    """

    path: Path
    about: str
    recipe: str = ""

    @property
    def name(self) -> str:
        """The name that the command takes: that of the file, without its ending."""
        return self.path.stem

    @property
    def is_measurement(self) -> bool:
        """Whether it measures this package, rather than uses it."""
        return MEASUREMENTS.match(self.name) is not None


def bundled_recipes() -> list[Entry]:
    """Return all recipes: first those for use, then those that measure the package."""
    entries = []
    for path in _files("*.py"):
        header = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        entries.append(Entry(path, header.partition("\n")[0]))

    return sorted(entries, key=lambda entry: (entry.is_measurement, entry.name))


def bundled_configs() -> list[Entry]:
    """Return all configurations of recipes, by name."""
    entries = []
    for path in _files("configs/*.yaml"):
        text = path.read_text(encoding="utf-8")
        command = re.search(r"hf-meta-adapters (?:run )?(\w+)", text)
        recipe = ""
        if command:
            recipe = command[1]

        entries.append(Entry(path, _first_sentence(text), recipe))

    return entries


def bundled_launchers() -> list[Entry]:
    """Return all configurations of `accelerate launch`, by name."""
    return [
        Entry(path, _first_sentence(path.read_text(encoding="utf-8")))
        for path in _files("accelerate/*.yaml")
    ]


def find_recipe(name: str) -> Path:
    """Return the file of a recipe.

    Args:
        name: The name of a bundled recipe, or the path of a Python file.

    Returns:
        The file.

    Raises:
        ConfigurationError: If there is none; the message names the nearest.

    Example:
        >>> find_recipe("pretrain_mlm").name
        'pretrain_mlm.py'
    """
    return _find(name, bundled_recipes(), ".py", "recipe")


def find_config(name: str) -> Path:
    """Return the file of a configuration.

    Args:
        name: The path of a YAML file, or the name of a bundled configuration.

    Returns:
        The file.

    Raises:
        ConfigurationError: If there is none; the message names the nearest.

    Example:
        >>> find_config("wikiann").name
        'wikiann.yaml'
    """
    return _find(name, bundled_configs(), ".yaml", "configuration")


def find_launcher(name: str) -> Path:
    """Return the file of a configuration of `accelerate launch`.

    Args:
        name: The path of a YAML file, or the name of a bundled configuration.

    Returns:
        The file.

    Raises:
        ConfigurationError: If there is none; the message names the nearest.

    Example:
        >>> find_launcher("cpu").name
        'cpu.yaml'
    """
    return _find(name, bundled_launchers(), ".yaml", "configuration of the launcher")


def _find(name: str, entries: Sequence[Entry], ending: str, what: str) -> Path:
    # A user's own file comes first, but a bare word is the name of a bundled one, whatever files or
    # folders happen to have that name.
    path = Path(name)
    is_word = path.name == name and not path.suffix
    if path.is_file() and not is_word:
        return path

    for entry in entries:
        if name in (entry.name, entry.path.name):
            return entry.path

    if path.is_file():
        return path

    names = [entry.name for entry in entries]
    parts = [
        f"A {what} must be a file, or bundled.",
        f"Found no {name!r}.",
        did_you_mean(path.name.removesuffix(ending), names),
        "`hf-meta-adapters ls` lists what is bundled.",
    ]
    raise ConfigurationError(" ".join(filter(None, parts)))


def _files(pattern: str) -> Iterable[Path]:
    folder = recipes_folder()
    if not folder.is_dir():
        raise ConfigurationError(
            f"The recipes must be installed with the package. Found no {folder}. Install the"
            " package from its wheel, or clone the whole repository."
        )

    return sorted(folder.glob(pattern))


def _first_sentence(text: str) -> str:
    """The first sentence of the comment at the beginning of a YAML file."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("# "):
            break
        lines.append(line.removeprefix("# "))

    return re.split(r"(?<=[.?]) ", " ".join(lines), maxsplit=1)[0]
