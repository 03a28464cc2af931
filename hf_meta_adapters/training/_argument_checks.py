"""Checks of single arguments; every message names the argument."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from hf_meta_adapters.errors import ConfigurationError

T = TypeVar("T")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Check that an argument is one of some words."""
    if value in choices:
        return

    listed = ", ".join(f'"{choice}"' for choice in choices)
    raise ConfigurationError(f"`{name}` must be one of {listed}. Found {value!r}.")


def check_positive(name: str, value: object) -> None:
    """Check that an argument is a whole number of at least 1."""
    if not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"`{name}` must be a whole number of at least 1. Found {value!r}.")


def check_count(name: str, value: object) -> None:
    """Check that an argument is a whole number of at least 0."""
    if not isinstance(value, int) or value < 0:
        raise ConfigurationError(
            f"`{name}` must be a whole number, or 0 for never. Found {value!r}."
        )


def check_rate(name: str, value: object, *, optional: bool = True) -> None:
    """Check that an argument is a finite number of at least 0, or `None` where it is optional."""
    if value is None and optional:
        return

    # NaN is not at least 0, and so is refused.
    if isinstance(value, (int, float)) and 0 <= value < math.inf:
        return

    expected = "must be a number of at least 0"
    if optional:
        expected += " or None"
    raise ConfigurationError(f"`{name}` {expected}. Found {value!r}.{_hint(value)}")


def check_share(name: str, value: object) -> None:
    """Check that an argument is a share of something, more than nothing of it, or `None`."""
    if value is None:
        return

    if not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ConfigurationError(
            f"`{name}` must be above 0 and at most 1, or None. Found {value!r}.{_hint(value)}"
        )


def check_beta(name: str, value: object) -> None:
    """Check that an argument is the rate at which a running mean forgets."""
    if not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ConfigurationError(
            f"`{name}` is the weight of the past in a running mean and must be at least 0 and under"
            f" 1. Found {value!r}.{_hint(value)}"
        )


def check_epsilon(name: str, value: object) -> None:
    """Check that an argument can keep a denominator from being 0."""
    if not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigurationError(
            f"`{name}` keeps a denominator from being 0 and must be a positive number. Found"
            f" {value!r}.{_hint(value)} The default is 1.0e-8."
        )


def check_cosine(name: str, value: object) -> None:
    """Check that an argument is a cosine that can be exceeded."""
    if not isinstance(value, (int, float)) or not -1 <= value < 1:
        raise ConfigurationError(
            f"`{name}` is a cosine and must be at least -1 and under 1. Found {value!r}."
        )


def check_exponent(name: str, value: object) -> None:
    """Check that an argument is the exponent α of sampling in proportion to n^α."""
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ConfigurationError(
            f"`{name}` is the exponent α of q ∝ n^α and must be in [0, 1]. Found {value!r}. For a"
            " temperature T use α = 1/T, for example 0.2 for T = 5."
        )


def check_norm(name: str, value: object) -> None:
    """Check that an argument is the greatest norm of gradients, or 0 for no bound."""
    # transformers takes less than 0, and NaN, for no bound, and stops at `None` in the first step.
    if not isinstance(value, (int, float)) or not value >= 0:
        raise ConfigurationError(
            f"`{name}` must be a number of at least 0. Found {value!r}. Use 0 for no clipping."
        )


def parsed_languages(value: T) -> T | Sequence[str] | Mapping[str, float]:
    """A JSON list or dict of languages, as a command line has it, as what it stands for."""
    if not isinstance(value, str) or value[:1] not in ("[", "{"):
        return value

    try:
        parsed: Sequence[str] | Mapping[str, float] = json.loads(value)
    except ValueError as error:
        raise ConfigurationError(
            "`meta_languages` must be a word, or a list or dict in JSON. Found"
            f""" {value!r}, which is not JSON: {error}. Write for example '["sw", "hi"]'."""
        ) from error
    return parsed


def _hint(value: object) -> str:
    """What often explains a value that is not a number to calculate with."""
    if isinstance(value, str):
        return " YAML reads 1e-3 as text: use 1.0e-3."
    if value == math.inf:
        return " It must be finite."
    return ""
