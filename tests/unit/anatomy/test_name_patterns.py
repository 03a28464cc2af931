"""Expressions over names of modules: what is quick is matched, what is not is refused."""

import re
import subprocess
import time
from typing import Any

import pytest

from hf_meta_adapters.anatomy import name_patterns
from hf_meta_adapters.anatomy.name_patterns import check_patterns
from hf_meta_adapters.errors import ConfigurationError
from tests.tiny import tiny

NAMES = [name for name, _ in tiny("bert").make().named_modules()]

SLOW = [
    "((([a-z0-9_.])+)+)+!",
    "(a|a|[a-z]|.)*!",
    r"(\w+\.?)*!",
    ".*.*.*.*.*.*.*.*.*!",
    "((.{1,60}){1,60}){1,60}!",
    "(?=.*query$)(([a-z0-9._])+)+!",
    "(?x) ( ( . ) + ) + !",
    # no quantifier at all, but two ways through each of forty groups
    "(|.)" * 40 + "!",
    "(|.|.|.)" * 40 + "!",
    "[a-z._0-9]?" * 40 + "!",
]
QUICK = [
    ".*query",
    r".*\.(query|value|key)",
    r"(?:bert\.)?(?:encoder\.layer\.\d+\.output|pooler)",
    "LayerNorm|layer_norm",
    "|".join(re.escape(name) for name in NAMES),
    # repeated groups, which have to be tried
    r"(?:\w+\.)*query",
    r"(?:.*?(?:vision|text).*?(?:layer|encoder).*?(?:self|mlp).*?(?:query|value).*?)|query",
]


@pytest.mark.parametrize("pattern", SLOW)
def test_what_takes_for_ever_is_refused(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # no whole number, as the limit of a process must be: the clock stops it
    monkeypatch.setattr(name_patterns, "_SECONDS", 0.15)
    with pytest.raises(
        ConfigurationError, match=r"`here` must .* Found .* took more than 0.15 sec"
    ):
        check_patterns("here", [pattern], NAMES)


def test_it_takes_two_seconds_to_refuse_it() -> None:
    began = time.monotonic()
    with pytest.raises(ConfigurationError, match="took more than 2 seconds with"):
        check_patterns("here", SLOW, NAMES)
    assert time.monotonic() - began < 12


@pytest.mark.parametrize("pattern", QUICK)
def test_what_is_quick_is_allowed(pattern: str) -> None:
    for how in ("fullmatch", "match", "search"):
        check_patterns("here", [pattern], NAMES, how)


def test_ordinary_expressions_need_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "run", refuse)
    for pattern in (*QUICK[:4], *NAMES):
        check_patterns("here", [pattern], NAMES)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(", "missing"),
        ("[", "unterminated"),
        (r"\1", "invalid group reference"),
        ("(" * 9999 + ")" * 9999, "recursion"),
        ("a{99999999999}", "too large"),
        ("a" * (2**20 + 1) + ".*", "1,048,579 characters"),
    ],
)
def test_what_is_no_expression_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"`here` must .* Found .*{said}") as error:
        check_patterns("here", [pattern], NAMES)
    assert len(str(error.value)) < 600


def test_many_expressions_are_tried_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_patterns, "_SECONDS", 1)
    # `re` compiles each of them anew for each name
    with pytest.raises(ConfigurationError, match=r"took more than .* with \d+ names"):
        check_patterns("here", [f"(x{number}|y)+" for number in range(2_000)], NAMES, "match")


def test_without_processes_what_may_be_slow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_patterns.sys, "executable", "/no/such/python")
    with pytest.raises(ConfigurationError, match="cannot be tried here"):
        check_patterns("here", [SLOW[0]], NAMES)
    check_patterns("here", QUICK[:4], NAMES)
