"""The cosine between the meta-gradient of a setting and the exact one."""

from __future__ import annotations

import pytest
import torch

from hf_meta_adapters.meta import fidelity, meta_gradient

from .problems import make


def given(case):
    return case.losses("train"), case.losses("meta"), case.shared, case.language


def flat(gradients):
    return torch.cat([entry.flatten() for own in gradients.values() for entry in own.values()])


@pytest.mark.parametrize(
    "options", [{"preset": "paper"}, {"meta_gradient": "forward_mode", "lookahead": "per_language"}]
)
def test_the_exact_gradient_is_that_of_itself(options):
    assert fidelity(*given(make()), inner_learning_rate=0.5, **options) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "options", [{}, {"preset": "fast"}, {"meta_gradient": "first_order"}, {"lookahead": "none"}]
)
def test_is_the_cosine_of_both_gradients(options):
    case = make()
    both = [
        flat(meta_gradient(*given(case), inner_learning_rate=0.5, **setting).language)
        for setting in (options, {"preset": "paper"})
    ]
    found = fidelity(*given(case), inner_learning_rate=0.5, **options)
    assert found == pytest.approx(torch.cosine_similarity(*both, dim=0).item())
    assert 0 < found < 1


def test_both_see_the_same_random_numbers_in_whatever_order_they_evaluate():
    case = make(dropout=0.0)

    def noisy(losses):
        return {
            key: lambda loss=loss: loss() * (1 + torch.rand(())) for key, loss in losses.items()
        }

    train, meta, shared, language = given(case)
    problem = noisy(train), noisy(meta), shared, language
    options = {"meta_gradient": "finite_difference", "lookahead": "per_language"}
    assert fidelity(*problem, inner_learning_rate=0.5, **options) == pytest.approx(1.0, abs=1e-6)


def test_a_draw_of_languages_is_compared_with_the_same_draw():
    options = {
        "meta_gradient": "finite_difference",
        "lookahead": "per_language",
        "meta_languages_per_step": 2,
    }
    for seed in range(3):
        found = fidelity(*given(make()), inner_learning_rate=0.5, seed=seed, **options)
        assert found == pytest.approx(1.0, abs=1e-6)


def test_nothing_is_changed():
    case = make()
    before = [
        value.detach().clone()
        for own in (case.shared, *case.language.values())
        for value in own.values()
    ]
    fidelity(*given(case), inner_learning_rate=0.5, preset="fast")
    after = [value for own in (case.shared, *case.language.values()) for value in own.values()]
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, after, strict=True))
