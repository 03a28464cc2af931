"""Regular expressions over the names of modules, tried before anything has to wait for them."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import warnings
from collections.abc import Sequence
from typing import Literal

from hf_meta_adapters.errors import ConfigurationError

__all__ = ["check_patterns"]

_PLAIN = re.compile(r"[\w.-]*")
_FEW = 512
"""As many expressions as `re` keeps compiled; beyond that, each match compiles its own anew."""

_LONGEST = 2**20
_CHEAP = 10**7
_SECONDS = 2
"""Of computing, not of waiting: a machine may have other things to do."""

_PATIENCE = 3
"""As many times longer a trial may take by the clock."""

_SHOWN = 80

# A thread would not do: a match holds the interpreter's lock and cannot be interrupted.
_TRIAL = """
import json, re, sys, warnings
warnings.simplefilter("ignore")
seconds, how, patterns, names = json.load(sys.stdin)
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
except (ImportError, OSError, TypeError, ValueError):
    pass
for name in names:
    for pattern in patterns:
        getattr(re, how)(pattern, name)
"""


def check_patterns(
    setting: str,
    patterns: Sequence[str],
    names: Sequence[str],
    how: Literal["fullmatch", "match", "search"] = "fullmatch",
) -> None:
    r"""Refuse regular expressions that are malformed, or that take too long on some names.

    What may take long by its form, such as `((.+)+)+!`, is tried in a process of its own, which is
    stopped when it has computed for two seconds.

    Args:
        setting: What holds the expressions, for the message.
        patterns: The expressions.
        names: The names that they will be matched with.
        how: The function of `re` that will match them.

    Raises:
        ConfigurationError: If one is malformed, or they take too long.

    Example:
        >>> check_patterns("target_modules", [r".*\.query"], ["encoder.layer.0.query"])
    """
    if len(patterns) <= _FEW and all(map(_PLAIN.fullmatch, patterns)):
        return

    rule = f"`{setting}` must hold regular expressions that are matched with names in no time."
    length = sum(map(len, patterns))
    if length > _LONGEST:
        raise ConfigurationError(
            f"{rule} Found {length:,} characters of them. Use ends of names, or shorter"
            " expressions."
        )

    for pattern in patterns:
        _check_form(rule, pattern)

    cost = sum(_most_steps(pattern, names) for pattern in patterns)
    if len(patterns) > _FEW or cost > _CHEAP:
        _check_time(rule, patterns, names, how)


def _check_form(rule: str, pattern: str) -> None:
    try:
        with warnings.catch_warnings():
            # of sets inside of sets, which may mean something else some day
            warnings.simplefilter("ignore", FutureWarning)
            re.compile(pattern)

    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigurationError(
            f"{rule} Found {_short(pattern)}: {error}. Correct it. Use for example"
            ' "layer_norm|LayerNorm".'
        ) from error


def _most_steps(pattern: str, names: Sequence[str]) -> float:
    """An upper bound of the steps of all matches; infinite where only a trial can tell."""
    # A number between dots can be matched in one way only.
    text = pattern.replace(r"\d+\.", "").replace("(?:", "(")
    if re.search(r"\(\?|\\[1-9]", text):
        return math.inf

    # what is escaped or in a set is a character like any other
    text = re.sub(r"\\.", "a", text, flags=re.DOTALL)
    text = re.sub(r"\[\^?\]?[^\]]*\]", "a", text)
    if re.search(r"\)[*+{]", text):
        # a repeated group has as many ways as its content has, to the power of its repetitions
        return math.inf

    longest = max(map(len, names), default=0) + 1
    repeats = len(re.findall(r"[*+{]", text))
    logarithm = repeats * math.log(longest) + text.count("?") * math.log(2) + _log_choices(text)
    return len(names) * math.exp(min(logarithm, 99))


def _log_choices(text: str) -> float:
    """The logarithm of the ways through all alternatives of an expression."""
    logarithm, alternatives = 0.0, [1]

    for character in text:
        if character == "(":
            alternatives.append(1)
        elif character == ")":
            logarithm += math.log(alternatives.pop())
        elif character == "|":
            alternatives[-1] += 1

    return logarithm + sum(map(math.log, alternatives))


def _check_time(rule: str, patterns: Sequence[str], names: Sequence[str], how: str) -> None:
    """Match in a process of its own, and stop it if that takes too long."""
    content = json.dumps([_SECONDS, how, list(patterns), list(names)])
    too_long = f"which took more than {_SECONDS} seconds with {len(names)} names"

    try:
        # -I and -S: nothing is imported but the standard library, which takes 20 milliseconds
        trial = subprocess.run(  # noqa: S603
            [sys.executable, "-I", "-S", "-c", _TRIAL],
            input=content.encode(),
            capture_output=True,
            timeout=_PATIENCE * _SECONDS,
            check=False,
        )
        if trial.returncode == 0:
            return

        what = too_long
        # below zero, a signal has stopped it
        if trial.returncode > 0:
            reason = trial.stderr.decode(errors="replace")[-_SHOWN:].strip()
            what = f"which cannot be matched ({reason})"

    except subprocess.TimeoutExpired:
        what = too_long
    except OSError as error:
        what = f"which may take for ever and cannot be tried here ({error})"

    raise ConfigurationError(
        f"{rule} Found {_short(*patterns)}, {what}. Use ends of names, or an expression in which no"
        " repeated part holds another one."
    )


def _short(*patterns: str) -> str:
    text = ", ".join(map(repr, patterns))
    if len(text) <= _SHOWN:
        return text

    return f"{text[:_SHOWN]}… ({len(patterns)} with {len(text):,} characters)"
