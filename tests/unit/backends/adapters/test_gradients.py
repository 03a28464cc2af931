"""The meta-gradient of adapters of the library `adapters` against full unrolling, dropout on."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from hf_meta_adapters import LanguageAdapterModel, meta_step
from tests.invariant.reference import flat, seeded_loss
from tests.invariant.reference import unrolled as unrolled_reference
from tests.tiny import in_double, tiny

from .methods import METHODS, adapted, stirred

LANGUAGES = ("te", "da", "zh-Hant")
RATE = 0.5


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


def setting(name: str, method: str, dtype: torch.dtype) -> tuple[LanguageAdapterModel, Any, Any]:
    cell = tiny(name)
    model = stirred(adapted(name, method, LANGUAGES, dtype=dtype), scale=0.05).train()
    train, meta = (
        {key: cell.batch(seed + start, length=6, dtype=dtype) for seed, key in enumerate(LANGUAGES)}
        for start in (0, 10)
    )
    return model, train, meta


def step(model: LanguageAdapterModel, train: Any, meta: Any, **options: Any) -> Any:
    options = {"lookahead": "per_language", "loss_function": seeded_loss, **options}
    return meta_step(model, train, meta, inner_learning_rate=RATE, **options)


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["xlm-r", "llama", "mt5"])
def test_both_estimators_equal_full_unrolling_in_double_precision(name: str, method: str) -> None:
    with in_double():
        given = setting(name, method, torch.float64)
        expected = flat(unrolled_reference(*given, RATE))
        exact = step(*given, meta_gradient="exact")
        differences = step(*given, meta_gradient="finite_difference")
    assert distance(flat(exact.language), expected) < 1e-10
    assert distance(flat(differences.language), expected) < 1e-6
    assert exact.meter.ratio > 1e-3


@pytest.mark.parametrize("method", ["double_seq_bn_inv", "lora", "prefix"])
def test_finite_differences_replay_the_dropout_in_single_precision(method: str) -> None:
    given = setting("bert", method, torch.float32)
    exact = flat(step(*given, meta_gradient="exact").language)
    found = flat(step(*given, meta_gradient="finite_difference").language)
    assert torch.cosine_similarity(found, exact, dim=0) >= 0.9999
