"""The options of the outer step: one list of names, presets, and what cannot work."""

from __future__ import annotations

import inspect
from typing import get_type_hints

import pytest

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta import MetaOptions, meta_gradient, meta_options
from hf_meta_adapters.meta.options import OPTION_NAMES, PRESETS, MetaOptionKeywords
from hf_meta_adapters.meta.outer_step_settings import OuterStepKeywords, outer_step_settings


def test_the_keywords_are_the_options_and_may_be_left_out():
    options, keywords = get_type_hints(MetaOptions), get_type_hints(MetaOptionKeywords)
    assert tuple(keywords) == OPTION_NAMES
    for name in OPTION_NAMES:
        assert keywords[name] == options[name] | None, name
    assert MetaOptionKeywords.__required_keys__ == frozenset()


def test_the_keywords_of_a_step_are_those_and_its_settings():
    parameters = inspect.signature(outer_step_settings).parameters
    named = {name for name, one in parameters.items() if one.kind is not one.VAR_KEYWORD}
    assert set(OuterStepKeywords.__annotations__) - set(OPTION_NAMES) == named
    assert set(OPTION_NAMES) <= set(OuterStepKeywords.__annotations__)


def test_the_defaults_of_a_step():
    settings = outer_step_settings()
    assert (settings.options, settings.seed, settings.train_gradients) == (MetaOptions(), 0, True)


@pytest.mark.parametrize("preset", PRESETS)
def test_an_option_overrides_the_preset_and_none_does_not(preset):
    chosen = meta_options(preset, lookahead="none", meta_gradient=None)
    assert chosen.lookahead == "none"
    assert chosen.meta_gradient == PRESETS[preset]["meta_gradient"]


@pytest.mark.parametrize("function", [meta_options, outer_step_settings])
def test_an_unknown_option_is_refused(function):
    with pytest.raises(ConfigurationError, match=r"must be one of \['meta_gradient', .*'speed'"):
        function(speed=2)


def test_an_unknown_option_of_a_step_is_refused_before_anything_else():
    with pytest.raises(ConfigurationError, match="Found 'speed'"):
        meta_gradient({}, {}, {}, {}, inner_learning_rate=0.1, speed=2)


@pytest.mark.parametrize("name", ["finite_difference_radius", "max_indirect_ratio"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_a_length_is_positive(name, value):
    with pytest.raises(ConfigurationError, match=f"`{name}` must be positive or None"):
        MetaOptions(**{name: value})


def test_a_meta_gradient_without_any_part_is_refused():
    with pytest.raises(ConfigurationError, match='`meta_languages="others"` has no direct part'):
        MetaOptions(meta_gradient="first_order", meta_languages="others")
