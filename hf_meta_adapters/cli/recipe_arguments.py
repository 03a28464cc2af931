"""The settings of a recipe, from a YAML file and the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, overload

import yaml

from hf_meta_adapters.errors import ConfigurationError

__all__ = ["parse_arguments"]

Arguments = TypeVar("Arguments")


@overload
def parse_arguments(
    kind: type[Arguments], arguments: Sequence[str] | None = None, **options: Any
) -> Arguments: ...


@overload
def parse_arguments(
    kind: Sequence[type[Any]], arguments: Sequence[str] | None = None, **options: Any
) -> tuple[Any, ...]: ...


def parse_arguments(
    kind: type[Any] | Sequence[type[Any]], arguments: Sequence[str] | None = None, **options: Any
) -> Any:
    r"""Fill a dataclass, or several, from `--config FILE` (YAML) and, over it, from the other command-line arguments.

    Args:
        kind: The dataclass, or several; every field has a default, as
            `transformers.HfArgumentParser` takes them.
        arguments: The command line; default `sys.argv[1:]`.
        **options: Of `argparse.ArgumentParser`, such as `description`.

    Returns:
        The filled dataclass, or a tuple of them.

    Raises:
        ConfigurationError: If the file is missing or malformed, names what is no field, or has a
            value of another type.

    Example:
        >>> from dataclasses import dataclass
        >>> from tempfile import TemporaryDirectory
        >>> @dataclass
        ... class Settings:
        ...     steps: int = 1
        ...     rate: float = 0.1
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder) / "settings.yaml"
        ...     _ = file.write_text("steps: 5\nrate: 1e-3")
        ...     parse_arguments(Settings, ["--config", str(file), "--steps", "7"])
        Settings(steps=7, rate=0.001)
    """
    from transformers import HfArgumentParser

    kinds = [kind] if isinstance(kind, type) else [*kind]
    parser = HfArgumentParser(
        kinds, **{"formatter_class": argparse.RawDescriptionHelpFormatter, **options}
    )
    parser.add_argument("--config", help="A YAML file with any of these; the command line wins.")
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    found, rest = finder.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    settings: dict[str, Any] = {}
    if found.config is not None:
        if not found.config.is_file():
            raise ConfigurationError(
                f"`--config` must be a YAML file. Found no {found.config}. Look in recipes/configs"
                " for one to copy."
            )
        settings = _read(found.config)
        known = [field.name for one in kinds for field in fields(one)]
        if unknown := sorted(set(settings) - set(known)):
            raise ConfigurationError(
                f"A setting must be one of {known}. Found {unknown[0]!r} in {found.config}."
            )
        _check_types(parser, settings, found.config)
    parser.set_defaults(**settings)
    filled = parser.parse_args_into_dataclasses(rest)
    return filled[0] if isinstance(kind, type) else tuple(filled[: len(kinds)])


def _read(path: Path) -> dict[str, Any]:
    rule = "`--config` must be a YAML file of lines `setting: value`."
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise ConfigurationError(f"{rule} Found in {path}: {said}. Correct that place.") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigurationError(
            f"{rule} Found in {path} a {type(found).__name__}. Write for example `max_steps: 100`."
        )
    return {str(name): value for name, value in found.items()}


def _check_types(parser: argparse.ArgumentParser, settings: dict[str, Any], path: Path) -> None:
    """Read every plain value as the command line would: the parser takes defaults as they are."""
    actions: dict[str, Any] = {action.dest: action for action in parser._actions}
    for name, value in settings.items():
        convert = actions[name].type if name in actions else None
        if value is None or not callable(convert) or isinstance(value, dict):
            continue
        several = (
            value if isinstance(value, list) and actions[name].nargs in ("+", "*") else [value]
        )
        try:
            for one in several:
                convert(one if isinstance(one, bool) else str(one))
        except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
            kind = getattr(convert, "__name__", str(convert))
            raise ConfigurationError(
                f"A setting must be of its own type. Found `{name}: {value!r}` in {path}, where"
                f" `{kind}` is needed. `--help` lists all of them."
            ) from error
