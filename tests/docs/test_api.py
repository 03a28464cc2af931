"""The public API as its readers meet it.

Every name is in the reference, is documented, and is shown in code that runs.
"""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import is_dataclass
from typing import Any

import pytest

import hf_meta_adapters
from tests.docs.pages import ROOT, pages, python_blocks

# The other packages are left out: the root exports what users need of them.
SUBPACKAGES = (
    "backends",
    "cli",
    "data",
    "diagnostics",
    "errors",
    "evaluation",
    "finetuning",
    "meta",
    "pretraining",
)
MODULES = [
    hf_meta_adapters,
    *(importlib.import_module(f"hf_meta_adapters.{name}") for name in SUBPACKAGES),
]
PUBLIC = sorted(
    {f"{m.__name__}.{name}" for m in MODULES for name in m.__all__ if name != "__version__"}
)
ANY = re.compile(r"\bAny\b")
# Shown by their callers: recipes, which run in tests/recipes, and `GradientConflictCallback.plot`.
BY_CALLER = {
    "run_finetuning",
    "run_pretraining",
    "within_language",
    "few_shot",
    "plot_conflict_over_time",
}


def load(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def reference() -> str:
    return "\n".join(
        page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").rglob("*.md")
    )


def shown() -> str:
    """The code of the documentation that runs, without its imports."""
    blocks = [
        block for page in pages() for block in python_blocks(page.read_text(encoding="utf-8"))
    ]
    code = "\n".join(block.code for block in blocks if block.not_executed is None)
    return re.sub(r"^from .*?import (\([^)]*\)|.*)$", "", code, flags=re.MULTILINE)


def lacks(found: Any) -> set[str]:
    """The sections that the docstring of a public object lacks."""
    text = inspect.getdoc(found) or ""
    if inspect.isclass(found):
        own = found.__doc__ or ""
        return set() if own and not own.startswith(f"{found.__name__}(") else {"a docstring"}
    if not inspect.isfunction(found):
        return set()  # mkdocstrings reads the string below a constant
    signature = inspect.signature(found)
    missing = {"a first line"} - ({"a first line"} if text.splitlines()[:1] else set())
    missing |= {"Args"} if signature.parameters and "\nArgs:\n" not in text else set()
    nothing = signature.return_annotation in (None, "None")
    return missing | (set() if nothing or "\nReturns:\n" in text else {"Returns"})


@pytest.mark.parametrize("path", PUBLIC)
def test_a_name_is_in_the_reference(path: str) -> None:
    name = path.rpartition(".")[2]
    assert re.search(rf"^::: [\w.]+\.{name}$", reference(), re.MULTILINE), (
        f"docs/reference must have `::: {path}`."
    )


@pytest.mark.parametrize("path", sorted({*PUBLIC, *re.findall(r"^::: (.*)$", reference(), re.M)}))
def test_a_name_is_documented(path: str) -> None:
    assert lacks(load(path)) == set()


def test_a_function_is_shown_where_it_runs() -> None:
    pages, missing = shown(), []
    for path in PUBLIC:
        found, name = load(path), path.rpartition(".")[2]
        if not inspect.isfunction(found) or name in BY_CALLER:
            continue
        if ">>>" not in (inspect.getdoc(found) or "") and not re.search(rf"\b{name}\b", pages):
            missing.append(path)
    assert missing == [], "Add an Example to the docstring, or show it on a page."


@pytest.mark.parametrize(
    "line", [line for line in reference().splitlines() if line.startswith(":::")]
)
def test_the_reference_has_no_name_that_is_not_there(line: str) -> None:
    assert load(line.removeprefix("::: "))


def untyped(found: Any) -> set[str]:
    """The public annotations of an object that say `Any`."""
    if inspect.isfunction(found):
        annotations = inspect.unwrap(found).__annotations__
        return {f"{name}: {kind}" for name, kind in annotations.items() if ANY.search(str(kind))}
    if not inspect.isclass(found):
        return set()

    said: set[str] = set()
    overridden: set[str] = set()
    for one in found.__mro__:
        if not one.__module__.startswith(("hf_meta_adapters", __name__)):
            continue

        own = vars(one).get("__annotations__", {})
        said |= {f"{name}: {kind}" for name, kind in own.items() if ANY.search(str(kind))}
        for name in vars(one).keys() - overridden:
            is_public = not name.startswith("_")
            # The `__init__` of a dataclass repeats its fields, also those of transformers.
            if is_public or (name == "__init__" and not is_dataclass(one)):
                member = vars(one)[name]
                function = getattr(member, "fget", None) or getattr(member, "__func__", member)
                said |= untyped(function) if inspect.isfunction(function) else set()
        overridden |= vars(one).keys()
    return said


@pytest.mark.parametrize("path", sorted({*PUBLIC, *re.findall(r"^::: (.*)$", reference(), re.M)}))
def test_a_public_signature_has_real_types(path: str) -> None:
    assert untyped(load(path)) == set()


class Untyped:
    field: dict[str, Any]

    def __init__(self, number: int) -> None:
        self.number = number

    @property
    def value(self) -> Any:
        return self.number

    @classmethod
    def make(cls, *numbers: int, **options: Any) -> int:
        return len(numbers) + len(options)

    def _private(self) -> Any:
        return self.number


def test_any_is_found() -> None:
    assert untyped(Untyped) == {"field: dict[str, Any]", "return: Any", "options: Any"}
    assert untyped(documented) == set()


def documented(number: int) -> int:
    """Double a number.

    Args:
        number: The number.

    Returns:
        The double.
    """
    return 2 * number


def bare(number: int) -> int:
    return 2 * number


def test_what_is_missing_is_found() -> None:
    assert lacks(documented) == set()
    assert lacks(bare) == {"a first line", "Args", "Returns"}
