"""Every recipe and configuration begins with what a reader needs, and recipes show their steps."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted([*(ROOT / "recipes").glob("*.py"), ROOT / "recipes" / "data" / "build.py"])
CONFIGS = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))
WORDS = ("Needs:", "Takes:", "Command:", "Override:")


def command(recipe: Path) -> str:
    """What runs it wherever the package is installed; the verses are built in a clone only."""
    if recipe.parent.name == "data":
        return "python recipes/data/build.py"

    return "hf-meta-adapters diagnose" if recipe.stem == "diagnose" else f"run {recipe.stem}"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_needs(path):
    header = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    places = [header.find(f"\n{word} ") for word in WORDS]
    assert -1 not in places
    assert places == sorted(places)
    assert command(path) in header


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_says_what_it_needs(path):
    header = path.read_text(encoding="utf-8").partition("\n\n")[0]
    places = [header.find(f"\n# {word} ") for word in WORDS]
    assert -1 not in places
    assert places == sorted(places)
    assert re.search(rf"hf-meta-adapters run \w+\s(# +)?--config {path.stem}\b", header)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_not_one_call(path):
    names = {
        node.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name)
    }
    assert not names & {"run_pretraining", "run_finetuning"}
