"""Wrong settings, all of them at once, each with what it was probably meant to be."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from hf_meta_adapters.cli.declared_options import Option
from hf_meta_adapters.cli.given_settings import Given, Settings, given_settings
from hf_meta_adapters.cli.nearest import did_you_mean
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["check_settings", "unknown_keys", "unknown_settings"]

YES_OR_NO = {"yes", "true", "t", "y", "1", "no", "false", "f", "n", "0"}
"""How transformers writes booleans on a command line, in any case."""


def check_settings(
    options: Mapping[str, Option],
    arguments: Sequence[str],
    settings: Settings,
    path: Path | None,
    *,
    help_command: str,
) -> None:
    """Check the names of all settings, and those values whose type is a plain one.

    Args:
        options: Name → the option, of the recipe.
        arguments: The command line, with settings as `--name value`.
        settings: The settings of a YAML file.
        path: That file.
        help_command: What lists all settings.

    Raises:
        ConfigurationError: If anything is wrong; the message names everything.
    """
    given = given_settings(arguments)
    fields = [option.name for option in options.values() if option.is_field]

    # A recipe with a parser of its own may take words without an option, as `diagnose` does.
    words: list[str] = []
    if fields:
        words = [word for word in given[0].values if not word.startswith("-")]

    wrong = [
        *(f"Found `{word}`, which follows no setting." for word in words),
        *unknown_settings(given, [*options, "help"]),
        *unknown_keys(settings, fields, path),
        *_wrong_values(given, options),
    ]
    if wrong:
        raise ConfigurationError(
            "A setting must be one of the recipe's, with a value of its type."
            f" {' '.join(wrong)} `{help_command}` lists all."
        )


def unknown_settings(given: Sequence[Given], known: Collection[str]) -> Iterator[str]:
    """Yield a sentence for each option of a command line that is not known.

    Args:
        given: The settings.
        known: The names of all options.

    Returns:
        The sentences.
    """
    for one in given[1:]:
        if _plain(one.name, known) is None:
            found = f"Found `--{one.name}`."
            yield f"{found} {did_you_mean(one.name.replace('-', '_'), known, prefix='--')}".strip()


def unknown_keys(settings: Settings, known: Collection[str], path: Path | None) -> Iterator[str]:
    """Yield a sentence for each key of a YAML file that is not known.

    Args:
        settings: The settings of the file.
        known: The names of all fields.
        path: The file.

    Returns:
        The sentences.
    """
    for name in sorted(settings):
        if name not in known:
            yield f"Found `{name}` in {path}. {did_you_mean(name, known)}".strip()


def _plain(name: str, known: Collection[str]) -> str | None:
    """The option that is meant; words may be joined by dashes as well."""
    for spelling in (name, name.replace("-", "_")):
        if spelling in known:
            return spelling

    return None


def _wrong_values(given: Sequence[Given], options: Mapping[str, Option]) -> Iterator[str]:
    for one in given[1:]:
        option = options.get(_plain(one.name, options) or "")
        if option is None or option.annotation is None:
            continue

        for value in one.values:
            needed = _misses(value, option.annotation)
            if needed:
                yield f"Found `--{one.name} {value}`, where `{needed}` is needed."


def _misses(value: str, annotation: ast.expr) -> str | None:
    """The type that a value does not have; `None` if it has it, or if that cannot be told."""
    kind = _without_none(annotation)

    if isinstance(kind, ast.Subscript) and ast.unparse(kind.value) in ("list", "List"):
        return _misses(value, kind.slice)

    if isinstance(kind, ast.Subscript) and ast.unparse(kind.value) == "Literal":
        return _misses_choice(value, kind.slice)

    name = ast.unparse(kind)
    if name == "bool" and value.lower() not in YES_OR_NO:
        return name

    converters = {"int": int, "float": float}
    if name in converters:
        try:
            converters[name](value)
        except ValueError:
            return name

    return None


def _misses_choice(value: str, choices: ast.expr) -> str | None:
    parts = [choices]
    if isinstance(choices, ast.Tuple):
        parts = choices.elts

    words = [str(part.value) for part in parts if isinstance(part, ast.Constant)]
    if value in words or len(words) < len(parts):
        return None

    return " | ".join(words)


def _without_none(annotation: ast.expr) -> ast.expr:
    """`int` of `int | None` and of `Optional[int]`; other unions stay."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Optional":
        return annotation.slice

    if isinstance(annotation, ast.BinOp) and ast.unparse(annotation.right) == "None":
        return annotation.left

    return annotation
