"""The examples in docstrings run, and every public function has one."""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import hf_meta_adapters
from tests.docs.pages import OPTIONS

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(hf_meta_adapters.__path__, "hf_meta_adapters.")
)
PUBLIC = sorted(
    name for name in hf_meta_adapters.__all__ if inspect.isfunction(getattr(hf_meta_adapters, name))
)


def load(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "adapters":
            raise
        pytest.skip("NOT CHECKED: the extra `adapters` is absent; `make test-adapters` has it")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(load(name), optionflags=OPTIONS)
    assert result.failed == 0


def test_examples_are_found() -> None:
    module = importlib.import_module("hf_meta_adapters.errors")
    tests = doctest.DocTestFinder().find(module)
    with_examples = {test.name.rpartition(".")[2] for test in tests if test.examples}
    assert with_examples >= {"check_known_language", "check_language", "check_languages"}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_function_shows_an_example(name: str) -> None:
    assert ">>>" in (inspect.getdoc(getattr(hf_meta_adapters, name)) or "")
