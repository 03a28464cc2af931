"""Steps on a GPU give the gradients of the same steps on the CPU."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from hf_meta_adapters import LanguageAdapterModel, RoutedLoss, SparseHead, joint_step, meta_step
from hf_meta_adapters.meta.step_weights import StepWeights
from hf_meta_adapters.meta.surgery import Surgery
from hf_meta_adapters.steps.next_step import next_step
from tests.adapted import adapted, lora, stirred
from tests.devices import ON_DEVICES, flat, on, relative, waits
from tests.tiny import in_double, tiny

LANGUAGES = ("en", "sw", "te")
RATE = 0.3
ESTIMATORS = ("exact", "forward_mode", "finite_difference", "first_order")
LOOKAHEADS = ("per_language", "shared", "none")
DIFFERENCE = 1e-5  # relative: a finite difference divides rounding by its radius
EXACT = 1e-9


def model_and_batches(
    name: str = "xlm-r", method: str = "bottleneck", **options: Any
) -> tuple[LanguageAdapterModel, dict[str, Any], dict[str, Any]]:
    """A float64 model on the CPU without dropout, training and validation batches."""
    torch.manual_seed(0)
    model = stirred(adapted(name, method, LANGUAGES, dtype=torch.float64, **options))
    train = {key: tiny(name).batch(seed, rows=3) for seed, key in enumerate(LANGUAGES)}
    meta = {key: tiny(name).batch(10 + seed, rows=3) for seed, key in enumerate(LANGUAGES)}
    return model, train, meta


def both(device: str, model: LanguageAdapterModel, work: Any, *batches: Any) -> list[Any]:
    """What some work gives on a device, and on the CPU."""
    there = copy.deepcopy(model).to(device)
    with in_double():
        return [work(there, *(on(device, one) for one in batches)), work(model, *batches)]


def assert_equal(found: Any, expected: Any, tolerance: float, parts: str = "indirect") -> None:
    for name in ("shared", "language", "direct", parts):
        assert flat(getattr(expected, name)).norm() > 0, name
        bound = EXACT if name in ("shared", "direct") else tolerance
        assert relative(flat(getattr(found, name)), flat(getattr(expected, name))) < bound, name


CASES = [
    ("xlm-r", "bottleneck", estimator, look) for estimator in ESTIMATORS for look in LOOKAHEADS
]
CASES += [
    (name, method, *setting)
    for name, method in (("xlm-r", "lora"), ("llama", "bottleneck"), ("llama", "lora"))
    for setting in (("exact", "per_language"), ("finite_difference", "shared"))
]


@ON_DEVICES
@pytest.mark.parametrize(("name", "method", "estimator", "lookahead"), CASES)
def test_a_meta_step_gives_the_gradients_of_the_cpu(device, name, method, estimator, lookahead):
    def step(model, train, meta):
        options = {"meta_gradient": estimator, "lookahead": lookahead}
        found = meta_step(model, train, meta, inner_learning_rate=RATE, **options)
        parameters = {**model.shared_parameters(), **model.language_parameters("sw")}
        assert {p.device.type for p in parameters.values()} == {
            entry.device.type for part in found.language.values() for entry in part.values()
        }
        return found

    found, expected = both(device, *_args(step, *model_and_batches(name, method)))
    tolerance = DIFFERENCE if estimator == "finite_difference" else EXACT
    last = "train" if estimator == "first_order" else "indirect"
    assert_equal(found, expected, tolerance, last)


def _args(work, model, *batches):
    return model, work, *batches


@ON_DEVICES
@pytest.mark.parametrize("name", ["xlm-r", "llama"])
@pytest.mark.parametrize(
    "options",
    [
        {"languages_per_pass": 99, "preset": "fast"},
        {"languages_per_pass": 2, "preset": "fast", "inner_optimizer": "adam"},
        {"mixed_rows": 0.5, "preset": "fast"},
        {"cpu_offload": True, "preset": "fast"},
        {"indirect_ratio": 0.3, "preset": "fast"},
        {"shared_update": "project"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_give_the_gradients_of_the_cpu(device, name, options):
    def step(model, train, meta):
        optimizer = torch.optim.AdamW(model.shared_parameters().values(), lr=1e-3)
        joint = joint_step(model, train)
        for key, parameter in model.shared_parameters().items():
            parameter.grad = joint.shared.get(key)
        optimizer.step()
        return meta_step(
            model, train, meta, inner_learning_rate=RATE, optimizer=optimizer, **options
        )

    found, expected = both(device, *_args(step, *model_and_batches(name)))
    assert_equal(found, expected, DIFFERENCE)


@ON_DEVICES
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("size", [1, 99])
@pytest.mark.parametrize(("name", "method"), [("xlm-r", "bottleneck"), ("llama", "lora")])
def test_the_next_step_gives_the_gradients_of_the_cpu(device, name, method, size, fused):
    def two_steps(model, train, meta):
        given = {"lr": 1e-2, "fused": fused} if model.device.type == device else {"lr": 1e-2}
        optimizer = torch.optim.AdamW(model.shared_parameters().values(), **given)
        kept, found = None, None
        for batches in (train, meta, train):
            found = next_step(
                model, batches, optimizer=optimizer, kept=kept, languages_per_pass=size
            )
            for key, parameter in model.shared_parameters().items():
                parameter.grad = found.shared.get(key)
            optimizer.step()
            kept = found.kept
        return found

    found, expected = both(device, *_args(two_steps, *model_and_batches(name, method)))
    for part in ("shared", "direct", "indirect"):
        assert relative(flat(getattr(found, part)), flat(getattr(expected, part))) < 1e-4, part


@ON_DEVICES
def test_frozen_base_with_two_loras(device):
    base = tiny("llama").make(torch.float64)
    found, expected = both(
        device,
        *_args(
            lambda model, train, meta: meta_step(
                model, train, meta, inner_learning_rate=RATE, preset="fast"
            ),
            *model_and_batches("llama", "lora", shared=lora(base)),
        ),
    )
    assert_equal(found, expected, DIFFERENCE)


@ON_DEVICES
@pytest.mark.parametrize("method", ["pcgrad", "upgrad"])
@pytest.mark.parametrize("gradients", ["keep", "sketch", "lagged"])
def test_surgery_weighs_the_gradients_as_on_the_cpu(device, method, gradients):
    pytest.importorskip("torchjd")

    def steps(model, train, meta):
        surgery = Surgery(method, gradients=gradients)
        return [joint_step(model, train, surgery=surgery) for _ in range(2)][-1]

    found, expected = both(device, *_args(steps, *model_and_batches()))
    # Signs of sketches are drawn on the device.
    bound = 0.3 if gradients != "keep" else 1e-8
    assert relative(flat(found.shared), flat(expected.shared)) < bound


@ON_DEVICES
def test_weights_of_languages(device):
    def step(model, train, meta):
        against = meta_step(
            model,
            train,
            meta,
            inner_learning_rate=RATE,
            step_weights=StepWeights(dict.fromkeys(LANGUAGES, 1.0), keep_validation=True),
        ).validation
        weights = StepWeights({"en": 1.0, "sw": 2.0, "te": 3.0}, against=against)
        return joint_step(model, train, step_weights=weights)

    found, expected = both(device, *_args(step, *model_and_batches()))
    assert relative(flat(found.shared), flat(expected.shared)) < EXACT
    assert relative(flat(found.alignment), flat(expected.alignment)) < 1e-7


@ON_DEVICES
@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_dropout_is_the_same_in_all_passes_of_a_step(device, lookahead):
    model, train, meta = model_and_batches(method="lora")
    model = model.to(device).train()
    train, meta = on(device, train), on(device, meta)
    found = []
    for estimator in ("exact", "finite_difference"):
        torch.manual_seed(3)
        options = {"meta_gradient": estimator, "lookahead": lookahead}
        step = meta_step(model, train, meta, inner_learning_rate=RATE, **options)
        found.append((flat(step.indirect), torch.rand(3, device=device).cpu()))

    (exact, drawn), (difference, other) = found
    assert torch.cosine_similarity(exact, difference, dim=0) > 0.999
    assert torch.equal(drawn, other)


@ON_DEVICES
def test_half_precision_keeps_the_direction(device):
    model, train, meta = model_and_batches()
    model = model.float().to(device)
    train, meta = on(device, train), on(device, meta)
    head = RoutedLoss(model, SparseHead(model, required=True))
    found = []
    for enabled in (False, True):

        def autocast(enabled=enabled):
            return torch.autocast(device, torch.bfloat16, enabled=enabled)

        given = {"loss_function": head, "autocast": autocast, "inner_learning_rate": RATE}
        for size in (1, 99):
            step = meta_step(model, train, meta, preset="fast", languages_per_pass=size, **given)
            found.append([flat(step.shared), flat(step.direct), flat(step.indirect)])

    full, routed, *half = found
    for one in (routed, *half):
        bounds = (0.99999, 0.9999, 0.999) if one is routed else (0.999, 0.99, 0.8)
        for part, expected, bound in zip(one, full, bounds, strict=True):
            assert torch.cosine_similarity(part, expected, dim=0) > bound


@ON_DEVICES
@pytest.mark.parametrize(
    ("kind", "most"),
    [("joint", 6), ("fast", 12), ("fast, one pass", 8), ("next", 8), ("paper", 24)],
)
def test_how_often_the_host_waits_does_not_grow_with_the_model(device, kind, most):
    """At most `most` times a language, and as often for two layers as for one."""
    counts = []
    for layers in (1, 2):
        cell = tiny("xlm-r")
        sizes = {**cell.family.sizes, "num_hidden_layers": layers}
        cell = replace(cell, family=replace(cell.family, sizes=sizes))
        model = stirred(adapted(cell, "bottleneck", LANGUAGES)).to(device).train()
        train = {key: on(device, cell.batch(n)) for n, key in enumerate(LANGUAGES)}
        meta = {key: on(device, cell.batch(9 + n)) for n, key in enumerate(LANGUAGES)}
        head = RoutedLoss(model, SparseHead(model, required=True))
        work = _steps(kind, model, train, meta, head)
        for _ in range(2):
            work()
        counts.append(Counter(waits(device, work)))

    assert sum(counts[1].values()) <= sum(counts[0].values()), counts
    assert sum(counts[0].values()) <= most * len(LANGUAGES), counts


def _steps(kind, model, train, meta, head):
    given = {"loss_function": head}
    if kind == "joint":
        return lambda: joint_step(model, train, **given)
    if kind == "next":
        optimizer = torch.optim.AdamW(model.shared_parameters().values(), lr=1e-6)
        kept = [None]

        def step():
            found = next_step(model, train, optimizer=optimizer, kept=kept[0], **given)
            for name, parameter in model.shared_parameters().items():
                parameter.grad = found.shared.get(name)
            optimizer.step()
            kept[0] = found.kept

        return step

    options = {"preset": kind.split(",")[0]}
    if "one pass" in kind:
        options["languages_per_pass"] = 99
    return lambda: meta_step(model, train, meta, inner_learning_rate=RATE, **options, **given)
