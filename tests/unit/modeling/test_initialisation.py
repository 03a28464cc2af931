"""A new language from a weighted mean of others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hf_meta_adapters.errors import ConfigurationError, LanguageError
from hf_meta_adapters.modeling._initialisation import mix_
from tests.adapted import METHODS, adapted, moved, snapshot, stirred


@pytest.mark.parametrize("method", METHODS)
def test_a_new_language_is_the_weighted_mean_parameter_by_parameter(method: str) -> None:
    model = stirred(adapted("bert", method, ["en", "sw", "te"]))
    before = snapshot(model)
    model.add_language("yo", copy_from={"sw": 0.6, "en": 0.3, "te": 0.1})
    named = [list(model.language_parameters(key).values()) for key in ("yo", "sw", "en", "te")]
    for new, sw, en, te in zip(*named, strict=True):
        torch.testing.assert_close(new, 0.6 * sw + 0.3 * en + 0.1 * te)
        assert new.requires_grad
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_the_mean_is_of_all_languages_alike() -> None:
    model = stirred(adapted("bert", "lora", ["en", "sw", "te"]))
    model.add_language("yo", copy_from="mean")
    named = [list(model.language_parameters(key).values()) for key in ("yo", "en", "sw", "te")]
    for new, *olds in zip(*named, strict=True):
        torch.testing.assert_close(new, sum(olds) / 3)

    model = adapted("bert", "lora", ["en", "mean"])  # a key of the model is that language
    model.add_language("yo", copy_from="mean")
    pairs = zip(*(model.language_parameters(key).values() for key in ("yo", "mean")), strict=True)
    assert all(torch.equal(new, old) for new, old in pairs)


def test_one_language_alone_is_copied_bitwise() -> None:
    model = stirred(adapted("bert", "lora"))
    model.add_language("yo", copy_from={"sw": 1.0})
    pairs = zip(
        model.language_parameters("yo").values(),
        model.language_parameters("sw").values(),
        strict=True,
    )
    assert all(torch.equal(new, old) and new is not old for new, old in pairs)


def test_low_precision_is_added_in_single_precision() -> None:
    first, second = (torch.randn(1000).to(torch.bfloat16) for _ in range(2))
    target = torch.zeros(1000, dtype=torch.bfloat16)
    mix_({"a": target}, [{"a": first}, {"a": second}], [0.1, 0.9])
    assert torch.equal(target, (0.1 * first.float() + 0.9 * second.float()).to(torch.bfloat16))


def test_what_is_no_number_is_copied_from_the_first() -> None:
    target = torch.zeros(2, dtype=torch.long)
    sources = [{"a": torch.tensor([1, 2])}, {"a": torch.tensor([3, 4])}]
    mix_({"a": target}, sources, [0.5, 0.5])
    assert target.tolist() == [1, 2]


@pytest.mark.parametrize(
    "weights",
    [
        {"sw": 0.6, "en": 0.5},
        {"sw": 1.2, "en": -0.2},
        {"sw": "all"},
        {},
        {"sw": True},
        {"sw": float("nan")},
    ],
)
def test_weights_that_do_not_sum_to_one_are_refused(weights: Any) -> None:
    model = adapted("bert", "lora")
    before = snapshot(model)
    with pytest.raises(
        ConfigurationError,
        match=r"must be positive and sum to 1 within 1e-06\. Found .* Use for example",
    ):
        model.add_language("yo", copy_from=weights)
    assert model.languages == ("en", "sw")
    assert moved(before, model) == set()


def test_rounding_is_allowed_for() -> None:
    third = 1 / 3
    adapted("bert", "lora", ["en", "sw", "te"]).add_language(
        "yo", copy_from={"en": third, "sw": third, "te": third}
    )


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(LanguageError, match="Found 'fr'"):
        adapted("bert", "lora").add_language("yo", copy_from={"sw": 0.5, "fr": 0.5})
