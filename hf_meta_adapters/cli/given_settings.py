"""Settings as they were given: on the command line, or in a YAML file."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import yaml

from hf_meta_adapters.errors import ConfigurationError

__all__ = ["Given", "Settings", "as_options", "given_settings", "read_settings"]

Settings: TypeAlias = dict[str, object]
"""Name → value, as YAML has it."""

SETTING = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<value>.*)", re.DOTALL)


@dataclass
class Given:
    """A setting of a command line.

    Attributes:
        name: Its name as written, without dashes; empty for words that no option precedes.
        values: The words that follow.
    """

    name: str
    values: list[str] = field(default_factory=list)


def as_options(arguments: Sequence[str], known: Collection[str] = ()) -> list[str]:
    """Return a command line whose settings `name=value` are written `--name value`.

    A word such as `a=b` is the value of an option if it follows one directly and `a` is not a
    setting. A list may be written in brackets.

    Args:
        arguments: The command line.
        known: The names of settings, as far as they are known.

    Returns:
        The command line that argparse understands.

    Example:
        >>> as_options(["max_steps=3", "languages=[en, sw]", "--seed", "1"])
        ['--max_steps', '3', '--languages', 'en', 'sw', '--seed', '1']
    """
    options: list[str] = []
    after_option = False

    for word in arguments:
        match = SETTING.fullmatch(word)
        if match and (match["name"] in known or not after_option):
            options += [f"--{match['name']}", *_words(match["value"])]
            after_option = False
        else:
            options.append(word)
            after_option = _is_option(word) and "=" not in word

    return options


def given_settings(arguments: Sequence[str]) -> list[Given]:
    """Return the settings of a command line, in its order.

    Args:
        arguments: The command line, with settings as `--name value` or `--name=value`.

    Returns:
        The settings; the first one has no name, and holds the words before any option.

    Example:
        >>> given_settings(["--seed=1", "--languages", "en", "sw"])[1:]
        [Given(name='seed', values=['1']), Given(name='languages', values=['en', 'sw'])]
    """
    given = [Given("")]
    for word in arguments:
        if not _is_option(word):
            given[-1].values.append(word)
            continue

        name, equals, value = word[2:].partition("=")
        given.append(Given(name, [value] if equals else []))

    return given


def read_settings(path: Path) -> Settings:
    """Return the settings of a YAML file.

    Args:
        path: The file.

    Returns:
        Name → value; nothing for an empty file.

    Raises:
        ConfigurationError: If it is malformed.
    """
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


def _is_option(word: str) -> bool:
    return word.startswith("--") and len(word) > 2


def _words(value: str) -> list[str]:
    """The words of a value: several for a list in brackets."""
    if not (value.startswith("[") and value.endswith("]")):
        return [value]

    try:
        parts = yaml.safe_load(value)
    except yaml.YAMLError:
        return [value]

    return [str(part) for part in parts]
