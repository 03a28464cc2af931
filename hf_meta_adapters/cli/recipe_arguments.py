"""The settings of a recipe, from a YAML file and the command line."""

from __future__ import annotations

import argparse
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import FunctionType
from typing import Any, TypeAlias, TypeVar, overload

import yaml
from transformers import HfArgumentParser

from hf_meta_adapters.errors import ConfigurationError

__all__ = ["parse_arguments"]

Arguments = TypeVar("Arguments")
First = TypeVar("First")
Second = TypeVar("Second")

Settings: TypeAlias = dict[str, object]
"""Name → value, as YAML has it."""


@overload
def parse_arguments(
    kind: type[Arguments], arguments: Sequence[str] | None = None, **options: object
) -> Arguments: ...


@overload
def parse_arguments(
    kind: tuple[type[First], type[Second]],
    arguments: Sequence[str] | None = None,
    **options: object,
) -> tuple[First, Second]: ...


@overload
def parse_arguments(
    kind: Sequence[type], arguments: Sequence[str] | None = None, **options: object
) -> tuple[Any, ...]: ...


def parse_arguments(
    kind: type | Sequence[type], arguments: Sequence[str] | None = None, **options: object
) -> object:
    r"""Fill one or several dataclasses from `--config FILE` (YAML) and the command line.

    Where both name a setting, the command line wins.

    Args:
        kind: The dataclass, or several of them. Every field has a default, as
            `transformers.HfArgumentParser` takes them.
        arguments: The command line; default `sys.argv[1:]`.
        **options: Options of `argparse.ArgumentParser`, such as `description`.

    Returns:
        The filled dataclass, or a tuple of them.

    Raises:
        ConfigurationError: If the file is missing or malformed, names a setting that is not a
            field, or has a value of the wrong type.

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
    dataclasses = [kind] if isinstance(kind, type) else list(kind)

    # The description of a recipe is its docstring, whose lines must stay as they are.
    options = {"formatter_class": RawDescriptionHelpFormatter, **options}
    parser = HfArgumentParser(dataclasses, **options)
    parser.add_argument("--config", help="A YAML file with any of these; the command line wins.")

    # `--config` is read before everything else, by a parser that leaves the rest to the other one.
    config_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config_parser.add_argument("--config", type=Path)
    if arguments is None:
        arguments = sys.argv[1:]
    config, command_line = config_parser.parse_known_args(arguments)

    if config.config is not None:
        settings = _read(config.config)
        _check_names(settings, dataclasses, config.config)
        _check_types(settings, parser, config.config)
        parser.set_defaults(**settings)

    filled = parser.parse_args_into_dataclasses(command_line)
    if isinstance(kind, type):
        return filled[0]

    # After the dataclasses comes a namespace with the arguments of no dataclass: `config`.
    return tuple(filled[: len(dataclasses)])


def _read(path: Path) -> Settings:
    if not path.is_file():
        raise ConfigurationError(
            f"`--config` must be a YAML file. Found no {path}. Copy one of recipes/configs."
        )

    rule = "`--config` must be a YAML file of lines `setting: value`."
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        # PyYAML breaks its messages into lines.
        message = " ".join(str(error).split())
        raise ConfigurationError(
            f"{rule} Found in {path}: {message}. Correct that place."
        ) from error

    # An empty file sets nothing.
    if content is None:
        return {}

    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{rule} Found in {path} a {type(content).__name__}. Use for example `max_steps: 100`."
        )

    return {str(name): value for name, value in content.items()}


def _check_names(settings: Settings, dataclasses: Iterable[type], path: Path) -> None:
    known: list[str] = []
    for dataclass in dataclasses:
        known += [field.name for field in fields(dataclass)]

    for name in sorted(settings):
        if name not in known:
            raise ConfigurationError(f"A setting must be one of {known}. Found {name!r} in {path}.")


def _check_types(
    settings: Mapping[str, object], parser: argparse.ArgumentParser, path: Path
) -> None:
    """Convert every plain value as on the command line: the parser takes defaults unchecked."""
    actions: dict[str, Any] = {action.dest: action for action in parser._actions}

    for name, value in settings.items():
        if value is None or isinstance(value, dict) or name not in actions:
            continue

        convert, nargs = actions[name].type, actions[name].nargs
        if not callable(convert):
            continue

        values = [value]
        if isinstance(value, list) and nargs in ("+", "*"):
            values = value

        try:
            for element in values:
                convert(_as_argument(element))
        except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
            raise ConfigurationError(
                f"A setting must have the type of its field. Found `{name}: {value!r}` in {path},"
                f" where `{_type_name(convert)}` is needed. `--help` lists all settings."
            ) from error


def _as_argument(value: object) -> bool | str:
    # The converter of yes and no takes booleans as they are.
    if isinstance(value, bool):
        return value

    return str(value)


def _type_name(convert: Callable[[str], object]) -> str:
    if isinstance(convert, (type, FunctionType)):
        return convert.__name__

    return str(convert)
