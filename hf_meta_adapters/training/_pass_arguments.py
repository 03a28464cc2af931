"""The argument `languages_per_pass`, a number or "auto"."""

from __future__ import annotations

from typing import TypeVar

from hf_meta_adapters.errors import ConfigurationError

T = TypeVar("T")

AUTO = "auto"


def parsed_size(value: T) -> T | int:
    """A whole number, as a command line has it, as what it stands for; anything else as it is."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value


def check_size(value: object) -> None:
    """Check that the argument is "auto", or a number of languages."""
    if value != AUTO and (not isinstance(value, int) or value < 1):
        raise ConfigurationError(
            '`languages_per_pass` must be a whole number of at least 1, or "auto". Found'
            f" {value!r}. Use 1 for a pass of each language."
        )


def first_size(value: object) -> int:
    """How many languages share a pass at the beginning: one, where the number is to be chosen."""
    return value if isinstance(value, int) else 1
