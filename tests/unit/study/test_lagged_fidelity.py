"""The indirect part with validation gradients of earlier steps, beside that of `meta_step`."""

from __future__ import annotations

import torch

from hf_meta_adapters import meta_step
from hf_meta_adapters.study.lagged_fidelity import LaggedFidelity
from hf_meta_adapters.study.next_fidelity import flat_gradients
from tests.adapted import adapted, stirred

LANGUAGES = ["en", "sw"]
RATE = 0.5
EXACT = {"inner_learning_rate": RATE, "meta_gradient": "exact"}


def loss(model, batch):
    return model(**batch).loss


def batches(seed: int) -> tuple[dict, dict]:
    generator = torch.Generator().manual_seed(seed)

    def one() -> dict:
        words = torch.randint(5, 60, (3, 6), generator=generator)
        return {"input_ids": words, "labels": words}

    return {key: one() for key in LANGUAGES}, {key: one() for key in LANGUAGES}


def test_its_own_validation_gradient_gives_the_meta_gradient():
    """A step that is taken twice: the v of the one before is its own."""
    model = stirred(adapted("bert", "bottleneck", LANGUAGES)).eval()
    exact = meta_step(model, *batches(0), loss_function=loss, **EXACT)
    truth = flat_gradients(exact.language)
    assert flat_gradients(exact.indirect).norm() > 1e-3 * flat_gradients(exact.direct).norm()

    lagged = LaggedFidelity(loss, lags=(1, 2))
    assert lagged(model, *batches(0), RATE, truth) == {}
    assert lagged(model, *batches(0), 2 * RATE, truth) == {}  # each rate has steps of its own
    again = lagged(model, *batches(0), RATE, flat_gradients(exact.indirect))
    assert list(again) == ["lagged, mean of 1"]

    found = lagged(model, *batches(0), RATE, truth)
    assert list(found) == ["lagged, mean of 1", "lagged, mean of 2"]
    assert min(found.values()) > 1 - 1e-6
    assert again["lagged, mean of 1"] < 0.99  # the direct part counts


def test_other_steps_have_other_validation_gradients():
    model = stirred(adapted("bert", "bottleneck", LANGUAGES)).eval()
    lagged = LaggedFidelity(loss, lags=(1,))
    for seed in (1, 0):
        exact = meta_step(model, *batches(seed), loss_function=loss, **EXACT)
        found = lagged(model, *batches(seed), RATE, flat_gradients(exact.language))
    assert 0 < found["lagged, mean of 1"] < 1 - 1e-6


def test_the_indirect_part_is_that_of_the_step():
    model = stirred(adapted("bert", "bottleneck", LANGUAGES)).eval()
    train, meta = batches(0)
    step = meta_step(model, train, meta, loss_function=loss, **EXACT)

    lagged = LaggedFidelity(loss)
    lagged(model, train, meta, RATE, flat_gradients(step.language))
    (vector,) = lagged._earlier[RATE]
    found = lagged._indirect(model, train, vector, RATE)
    torch.testing.assert_close(found, flat_gradients(step.indirect), rtol=1e-4, atol=1e-9)
