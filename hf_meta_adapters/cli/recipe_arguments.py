"""The settings of a recipe, from a YAML file and the command line."""

from __future__ import annotations

import argparse
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar, overload

from hf_meta_adapters.cli.catalogue import find_config
from hf_meta_adapters.cli.check_settings import unknown_keys, unknown_settings
from hf_meta_adapters.cli.given_settings import (
    Settings,
    as_options,
    given_settings,
    read_settings,
)
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["parse_arguments"]

Arguments = TypeVar("Arguments")
First = TypeVar("First")
Second = TypeVar("Second")


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

    Where both name a setting, the command line wins. There, `name=value` is another way to write
    `--name value`.

    Args:
        kind: The dataclass, or several of them. Every field has a default, as
            `transformers.HfArgumentParser` takes them.
        arguments: The command line; default `sys.argv[1:]`.
        **options: Options of `argparse.ArgumentParser`, such as `description`.

    Returns:
        The filled dataclass, or a tuple of them.

    Raises:
        ConfigurationError: If the file is missing or malformed, or has a value of the wrong type,
            or if the file or the command line names a setting that is not a field.

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
        ...     parse_arguments(Settings, ["--config", str(file), "steps=7"])
        Settings(steps=7, rate=0.001)
    """
    # Only a recipe needs the parser; `hf-meta-adapters` does not wait for transformers.
    from transformers import HfArgumentParser

    dataclasses = [kind] if isinstance(kind, type) else list(kind)

    # The description of a recipe is its docstring, whose lines must stay as they are. What begins
    # as an option does may be meant as another one.
    options = {"formatter_class": RawDescriptionHelpFormatter, "allow_abbrev": False, **options}
    parser = HfArgumentParser(dataclasses, **options)
    parser.add_argument("--config", help="A YAML file with any of these; the command line wins.")

    if arguments is None:
        arguments = sys.argv[1:]
    names: list[str] = []
    for dataclass in dataclasses:
        names += [field.name for field in fields(dataclass) if field.init]
    command_line = as_options(arguments, [*names, "config"])

    # `--config` is read before everything else, by a parser that leaves the rest to the other one.
    config_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config_parser.add_argument("--config")
    config, command_line = config_parser.parse_known_args(command_line)

    settings: Settings = {}
    path = None
    if config.config is not None:
        path = find_config(config.config)
        settings = read_settings(path)

    _check_names(settings, path, command_line, names, parser)
    if path is not None:
        _check_types(settings, parser, path)
        parser.set_defaults(**settings)

    filled = parser.parse_args_into_dataclasses(command_line)
    if isinstance(kind, type):
        return filled[0]

    # After the dataclasses comes a namespace with the arguments of no dataclass: `config`.
    return tuple(filled[: len(dataclasses)])


def _check_names(
    settings: Settings,
    path: Path | None,
    command_line: Sequence[str],
    names: Sequence[str],
    parser: argparse.ArgumentParser,
) -> None:
    # More than the fields: `--no_…` of what is on by default.
    options = [option.lstrip("-") for option in parser._option_string_actions]

    given = given_settings(command_line)
    wrong = [*unknown_settings(given, options), *unknown_keys(settings, names, path)]
    if wrong:
        raise ConfigurationError(
            f"A setting must be one of the recipe's. {' '.join(wrong)} `--help` lists all."
        )


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
