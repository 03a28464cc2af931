"""The meta-gradient of real architectures, dropout on, against full unrolling and numerical
differentiation.
"""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig

from hf_meta_adapters import BottleneckConfig, get_language_model, meta_step
from hf_meta_adapters.errors import ConfigurationError
from tests.tiny import in_double, tiny

from .reference import LANGUAGES, flat, outer_loss, perturbed, seeded_loss, unrolled

METHODS = {
    "bottleneck": lambda: BottleneckConfig(bottleneck_size=3),
    "lora": lambda: LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.1),
}
MODELS = ("xlm-r", "llama", "mt5")
RATE = 0.5


def setting(name, method, dtype=torch.float64):
    cell = tiny(name)
    model = get_language_model(cell.make(dtype), METHODS[method](), languages=LANGUAGES).to(dtype)
    perturbed(model).train()
    train = {key: cell.batch(seed, dtype=dtype) for seed, key in enumerate(LANGUAGES)}
    meta = {key: cell.batch(10 + seed, dtype=dtype) for seed, key in enumerate(LANGUAGES)}
    return model, train, meta


def step(model, train, meta, rate=RATE, **options):
    options = {"lookahead": "per_language", **options}
    return meta_step(
        model, train, meta, inner_learning_rate=rate, loss_function=seeded_loss, **options
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("estimator", ["exact", "forward_mode"])
def test_equals_full_unrolling_in_double_precision(name, method, estimator):
    with in_double():
        model, train, meta = setting(name, method)
        if (name, estimator) == ("llama", "forward_mode"):
            with pytest.raises(
                ConfigurationError, match=r"forward AD with .*silu_backward.*finite_difference"
            ):
                step(model, train, meta, meta_gradient=estimator)
            return
        expected = flat(unrolled(model, train, meta, RATE))
        found = step(model, train, meta, meta_gradient=estimator)
    assert ((flat(found.language) - expected).norm() / expected.norm()).item() < 1e-10
    assert found.meter.ratio > 1e-3


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_equals_numerical_differentiation_of_the_outer_loss(name, method):
    with in_double():
        model, train, meta = setting(name, method)
        found = step(model, train, meta, meta_gradient="exact").language["da"]
        own = model.language_parameters("da")
        draw = torch.Generator().manual_seed(3)
        direction = {n: torch.randn(p.shape, generator=draw, dtype=p.dtype) for n, p in own.items()}
        values, h = [], 1e-6
        start = {n: p.detach().clone() for n, p in own.items()}
        for sign in (1, -1):
            for n, p in own.items():
                p.data.copy_(start[n] + sign * h * direction[n])
            values.append(outer_loss(model, "da", train, meta, RATE, create_graph=False).item())
    slope = sum((found[n] * direction[n]).sum().item() for n in found)
    assert slope == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rate", [0.01, 1.0])
def test_exact_in_single_precision(name, method, rate):
    model, train, meta = setting(name, method, torch.float32)
    found = flat(step(model, train, meta, rate, meta_gradient="exact").language)
    expected = flat(unrolled(model, train, meta, rate))
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scheme", ["central", "one_sided"])
@pytest.mark.parametrize("rate", [0.01, 1.0])
def test_finite_differences_in_single_precision(name, method, scheme, rate):
    model, train, meta = setting(
        name, method, torch.float32
    )  # the masks of float64 would be others
    exact = step(model, train, meta, rate, meta_gradient="exact")
    found = step(
        model, train, meta, rate, meta_gradient="finite_difference", finite_difference_scheme=scheme
    )
    for part, bound in (
        ("language", 0.9999),
        ("indirect", 0.9999 if scheme == "central" else 0.999),
    ):
        cosine = torch.cosine_similarity(
            flat(getattr(found, part)), flat(getattr(exact, part)), dim=0
        )
        assert cosine >= bound, part
