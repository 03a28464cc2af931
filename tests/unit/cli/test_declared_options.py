"""The options that are read from the source of a recipe are those of its parser."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import transformers

import hf_meta_adapters.cli
from hf_meta_adapters.cli.catalogue import bundled_recipes
from hf_meta_adapters.cli.declared_options import declared_options

RECIPES = [entry.path for entry in bundled_recipes()]


class Asked(Exception):
    """The recipe has asked for its settings."""


def true_options(recipe: Path, patch: pytest.MonkeyPatch) -> tuple[set[str], set[str]]:
    """The options of the parser that a recipe makes, and those of them that are fields."""
    made: list[object] = []

    def remember(parser: object, *_: object, **__: object) -> None:
        made.append(parser)
        raise Asked

    for kind in (transformers.HfArgumentParser, hf_meta_adapters.cli.recipe_arguments.argparse):
        owner = kind if isinstance(kind, type) else kind.ArgumentParser
        patch.setattr(owner, "parse_args", remember)
        patch.setattr(owner, "parse_args_into_dataclasses", remember, raising=False)
    patch.setattr(sys, "argv", [str(recipe)])
    patch.syspath_prepend(recipe.parent)

    spec = importlib.util.spec_from_file_location(f"recipe_{recipe.stem}", recipe)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    with pytest.raises(Asked):
        (getattr(module, "main", None) or module.arguments)()

    (parser,) = made
    names = {name[2:] for name in parser._option_string_actions if name.startswith("--")}
    fields = {
        field.name
        for kind in getattr(parser, "dataclass_types", ())
        for field in dataclasses.fields(kind)
        if field.init
    }
    return names - {"help"}, fields


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_options_of_a_recipe(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = declared_options(recipe)
    assert options is not None
    names, fields = true_options(recipe, monkeypatch)

    # Each may be written with dashes between words, too.
    known = {*options, *(name.replace("_", "-") for name, one in options.items())}
    assert names <= known
    assert {name for name in options if name not in names} == set()
    assert {name for name, option in options.items() if option.is_field} == fields


SOURCE = """
from dataclasses import InitVar, dataclass, field
from typing import ClassVar, Literal
from beside import Base
from hf_meta_adapters.cli import parse_arguments

@dataclass
class Mine(Base):
    rate: "float" = 0.1
    fast: bool = True
    kind: Literal["a", "b"] = "a"
    constant: ClassVar[int] = 3
    once: InitVar[int] = 3
    derived: int = field(init=False, default=1)
    on: bool = field(default=True, metadata={"help": "On."})

def main():
    parse_arguments([Mine])
"""


def test_a_recipe_of_a_user(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.py"
    recipe.write_text(SOURCE)
    assert declared_options(recipe) is None  # its base is nowhere

    (tmp_path / "beside.py").write_text("class Base:\n    seed: int = 0\n")
    options = declared_options(recipe)
    assert options is not None
    assert set(options) == {"seed", "rate", "fast", "no_fast", "kind", "on", "no_on", "config"}
    assert {name for name, one in options.items() if one.is_field} == {
        "seed",
        "rate",
        "fast",
        "kind",
        "on",
    }


@pytest.mark.parametrize(
    "source",
    [
        "print('no parser')",
        "def f(",
        "parse_arguments(make())",
        "from nowhere_at_all import A\nparse_arguments(A)",
        "import a\nclass A(a.B): pass\nparse_arguments(A)",
    ],
)
def test_what_cannot_be_told_is_left_to_the_recipe(tmp_path: Path, source: str) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(source)
    assert declared_options(recipe) is None
