"""Every recipe and configuration begins with what a reader needs, and recipes show their steps."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted([*(ROOT / "recipes").glob("*.py"), ROOT / "recipes" / "data" / "build.py"])
CONFIGS = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))
WORDS = ("Needs:", "Takes:", "Command:", "Override:")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_needs(path):
    header = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    places = [header.find(f"\n{word} ") for word in WORDS]
    assert -1 not in places
    assert places == sorted(places)
    assert f"python recipes/{path.relative_to(ROOT / 'recipes').as_posix()}" in header


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_says_what_it_needs(path):
    header = path.read_text(encoding="utf-8").partition("\n\n")[0]
    places = [header.find(f"\n# {word} ") for word in WORDS]
    assert -1 not in places
    assert places == sorted(places)
    assert f"recipes/configs/{path.name}" in header


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_not_one_call(path):
    names = {
        node.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name)
    }
    assert not names & {"run_pretraining", "run_finetuning"}
