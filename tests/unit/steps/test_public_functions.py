"""The three steps are functions of the root, and no module is reachable under their names there."""

from __future__ import annotations

import importlib
import inspect

import pytest

import hf_meta_adapters
import hf_meta_adapters.steps

STEPS = ("joint_step", "meta_fidelity", "meta_step")


@pytest.mark.parametrize("name", STEPS)
def test_the_root_has_the_function(name):
    home = importlib.import_module(f"hf_meta_adapters.steps.{name}")
    assert inspect.isfunction(getattr(hf_meta_adapters, name))
    assert getattr(hf_meta_adapters, name) is getattr(home, name)


@pytest.mark.parametrize("name", STEPS)
def test_the_package_of_the_steps_has_the_module(name):
    importlib.import_module(f"hf_meta_adapters.steps.{name}")
    assert inspect.ismodule(getattr(hf_meta_adapters.steps, name))


@pytest.mark.parametrize("name", STEPS)
def test_the_root_has_no_module_of_that_name(name):
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"hf_meta_adapters.{name}")


@pytest.mark.parametrize("name", STEPS)
def test_a_step_has_no_more_than_a_dozen_named_parameters(name):
    parameters = inspect.signature(getattr(hf_meta_adapters, name)).parameters.values()
    named = [one for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD]
    assert len(named) <= 12
