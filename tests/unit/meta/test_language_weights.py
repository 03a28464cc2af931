"""Weights of languages in θ's gradient: against autograd, against algorithms written out, and by
their properties.
"""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta import joint_gradient, meta_gradient
from hf_meta_adapters.meta.alignment import Alignment
from hf_meta_adapters.meta.famo import Famo
from hf_meta_adapters.meta.language_weights import LanguageWeights
from hf_meta_adapters.meta.step_weights import StepWeights

from .problems import LANGUAGES, Problem, make

RAW = {"te": 1.0, "da": 3.0, "zh-Hant": 4.0, "en": 9.0}  # en is in no step
SHARES = {"te": 0.125, "da": 0.375, "zh-Hant": 0.5}
LOOKAHEADS = ("none", "shared", "per_language")


def direction(problem: Problem) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(7)
    return {
        name: torch.randn(entry.shape, generator=draw, dtype=entry.dtype)
        for name, entry in problem.shared.items()
    }


def take(problem: Problem, kind: str, parts: int = 1, **given: Any) -> Any:
    train = problem.losses("train", parts)
    if kind == "joint":
        return joint_gradient(train, problem.shared, problem.language, **given)
    meta = problem.losses("meta", parts)
    options = {"meta_gradient": "exact", "lookahead": kind, "inner_learning_rate": 0.2, **given}
    return meta_gradient(train, meta, problem.shared, problem.language, **options)


def gradient(problem: Problem, role: str, key: str, shared: Any = None) -> dict[str, Tensor]:
    """∇θ of one language's loss, by autograd."""
    theta = shared or problem.shared
    loss = problem.value(role, key, theta, problem.language[key])
    found = torch.autograd.grad(loss, list(theta.values()), materialize_grads=True)
    return dict(zip(theta, found, strict=True))


def combined(gradients: dict[str, dict[str, Tensor]], weights: dict[str, float]) -> Any:
    names = next(iter(gradients.values()))
    return {name: sum(weights[key] * gradients[key][name] for key in gradients) for name in names}


def inner(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    return float(sum((left[name] * right[name]).sum() for name in left))


@pytest.mark.parametrize("kind", ["joint", *LOOKAHEADS])
def test_the_gradient_of_theta_and_its_agreement_are_those_of_autograd(kind: str) -> None:
    problem = make()
    against = direction(problem)
    step = take(problem, kind, step_weights=StepWeights(RAW, against))
    own = {key: gradient(problem, "train", key) for key in LANGUAGES}
    expected = combined(own, SHARES)
    assert set(expected) - set(step.shared) == {"unused"}
    for name, entry in step.shared.items():
        torch.testing.assert_close(entry, expected[name])
    length = math.sqrt(inner(expected, expected) * inner(against, against))
    assert set(step.alignment) == set(LANGUAGES)
    for key in LANGUAGES:
        found = step.alignment[key].item()
        assert found == pytest.approx(inner(own[key], against) / length, rel=1e-9)
    mean = sum(SHARES[key] * step.alignment[key].item() for key in LANGUAGES)
    assert mean == pytest.approx(inner(expected, against) / length)  # the cosine
    # φ has its own loss
    plain = take(problem, kind)
    for key in LANGUAGES:
        for name, entry in plain.train[key].items():
            torch.testing.assert_close(step.train[key][name], entry, rtol=0, atol=0)
    assert plain.alignment == {}


@pytest.mark.parametrize("kind", LOOKAHEADS)
def test_v_is_the_validation_gradient_where_it_is_taken(kind: str) -> None:
    problem = make(dropout=0.0)
    step = take(problem, kind, step_weights=StepWeights(RAW, keep_validation=True))
    assert take(problem, kind, step_weights=StepWeights(RAW)).validation is None
    own = {key: gradient(problem, "train", key) for key in LANGUAGES}
    moves = {"none": [{}], "shared": [combined(own, SHARES)], "per_language": own.values()}[kind]
    found = []
    for move in moves:
        theta = {
            name: (entry - 0.2 * move.get(name, torch.zeros(()))).detach().requires_grad_()
            for name, entry in problem.shared.items()
        }
        several = {key: gradient(problem, "meta", key, theta) for key in LANGUAGES}
        found.append(combined(several, dict.fromkeys(LANGUAGES, 1 / 3)))
    for name, entry in step.validation.items():
        expected = sum(one[name] for one in found) / len(found)
        torch.testing.assert_close(entry, expected)


@pytest.mark.parametrize("kind", ["joint", *LOOKAHEADS])
@pytest.mark.parametrize("parts", [1, 3])
def test_equal_weights_are_the_mean_bit_by_bit(kind: str, parts: int) -> None:
    problem = make()
    equal = StepWeights(dict.fromkeys(LANGUAGES, 1 / 3), keep_validation=True)
    step, mean = take(problem, kind, parts, step_weights=equal), take(problem, kind, parts)
    for name, entry in mean.shared.items():
        assert torch.equal(step.shared[name], entry)


def test_a_language_without_a_loss_has_no_share() -> None:
    problem = make()
    losses = {**problem.losses("train"), "da": []}
    step = joint_gradient(
        losses, problem.shared, problem.language, step_weights=StepWeights(RAW, direction(problem))
    )
    own = {key: gradient(problem, "train", key) for key in ("te", "zh-Hant")}
    expected = combined(own, {"te": 0.2, "zh-Hant": 0.8})
    for name, entry in step.shared.items():
        torch.testing.assert_close(entry, expected[name])
    assert set(step.alignment) == {"te", "zh-Hant"}


def test_projection_acts_on_the_weighted_sum() -> None:
    problem = make(dropout=0.0)
    weights = StepWeights(RAW, keep_validation=True)
    plain = take(problem, "none", step_weights=weights)
    step = take(problem, "none", step_weights=weights, shared_update="project")
    product = min(0.0, inner(plain.shared, plain.validation))
    share = product / inner(plain.validation, plain.validation)
    for name, entry in plain.shared.items():
        expected = entry - share * plain.validation[name]
        torch.testing.assert_close(step.shared[name], expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"step_weights": StepWeights({"te": 1.0})}, r"Found none for \['da', 'zh-Hant'\]"),
        (
            {
                "step_weights": StepWeights(RAW, keep_validation=True),
                "meta_gradient": "first_order",
            },
            'Found `meta_gradient="first_order"`, which does not compute it',
        ),
        (
            {
                "step_weights": StepWeights(RAW, keep_validation=True),
                "meta_gradient": "finite_difference",
                "cpu_offload": True,
            },
            "Found `cpu_offload=True`, which moves it",
        ),
    ],
)
def test_weights_that_cannot_work_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        take(make(), "shared", **given)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_is_positive(weight: float) -> None:
    with pytest.raises(ConfigurationError, match=r"must be a positive number. Found {'da': "):
        StepWeights({"te": 1.0, "da": weight})


def steps(seed: int, count: int = 30) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Losses and alignments of steps that hold some of four languages."""
    draw, names = random.Random(seed), [*LANGUAGES, "en"]
    found = []
    for _ in range(count):
        held = [key for key in names if draw.random() < 0.7]
        losses = {key: math.exp(draw.gauss(0, 1)) for key in held}
        found.append((losses, {key: draw.gauss(0.3, 0.5) for key in held}))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_alignment_is_exponentiated_gradient_ascent(seed: int) -> None:
    names = [*LANGUAGES, "en"]
    learned, logits = Alignment(names, rate=0.2), dict.fromkeys(names, 0.0)

    def written_out() -> dict[str, float]:
        total = sum(math.exp(entry) for entry in logits.values())
        return {key: 0.9 * math.exp(logits[key]) / total + 0.1 / 4 for key in names}

    for losses, alignment in steps(seed):
        weights = written_out()
        learned.observe(losses, alignment)
        mass = sum(weights[key] for key in alignment)
        mean = sum(weights[key] * gain for key, gain in alignment.items()) / (mass or 1)
        for key, gain in alignment.items():
            logits[key] = 0.999 * logits[key] + 0.2 * (gain - mean)
        assert learned.weights() == pytest.approx(written_out(), rel=1e-12)
    before = learned.weights()
    learned.observe({"te": 1.0}, {})
    assert learned.weights() == before


@pytest.mark.parametrize("seed", range(5))
def test_famo_is_adam_on_what_autograd_says(seed: int) -> None:
    names = [*LANGUAGES, "en"]
    learned = Famo(names, rate=0.1)
    logits = {key: torch.zeros((), dtype=torch.float64, requires_grad=True) for key in names}
    adam = torch.optim.Adam(list(logits.values()), lr=0.1, weight_decay=1e-3)
    last: dict[str, float] = {}
    for losses, _ in steps(seed):
        learned.observe(losses, {})
        held = [key for key in losses if key in last]
        if held:
            z = torch.stack([logits[key] for key in held]).softmax(0)
            fallen = torch.tensor([math.log(last[key] / losses[key]) for key in held])
            adam.zero_grad()
            (z @ fallen.double()).backward()
            adam.step()
        last |= losses
        known = [math.log(loss) for loss in last.values()]
        usual = math.exp(sum(known) / len(known)) if known else 1.0
        raw = {key: math.exp(logits[key].item()) / last.get(key, usual) for key in names}
        total = sum(raw.values())
        expected = {key: entry / total for key, entry in raw.items()}
        # the fall of a loss is in float32 in the reference
        assert learned.weights() == pytest.approx(expected, rel=1e-4)


def test_famo_gives_weight_to_the_language_whose_loss_falls_slowly() -> None:
    learned = Famo(["fast", "slow"])
    for step in range(50):
        # divided by the losses, both would be equal but for the logits
        learned.observe({"fast": 2.0 * 0.99**step, "slow": 2.0 * 0.999**step}, {})
    weights = learned.weights()
    ratio = weights["slow"] / weights["fast"] * 0.999**49 / 0.99**49
    assert ratio > 2


def test_alignment_prefers_the_language_that_helps() -> None:
    """θ moves to the mean of two targets, and the validation loss has only the first."""
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    targets = {"near": torch.tensor([1.0, 0.0]), "away": torch.tensor([-1.0, 1.0])}
    losses = {
        key: lambda key=key: (theta - targets[key].double()).square().sum() for key in targets
    }
    meta = {"near": losses["near"], "away": []}
    learned, against = Alignment(list(targets), rate=0.1), None
    for _ in range(100):
        weights = StepWeights(learned.weights(), against, keep_validation=True)
        step = meta_gradient(
            losses,
            meta,
            {"theta": theta},
            {key: {} for key in targets},
            inner_learning_rate=0.01,
            lookahead="none",
            step_weights=weights,
        )
        alignment = {key: entry.item() for key, entry in step.alignment.items()}
        learned.observe({}, alignment)
        against = step.validation
        with torch.no_grad():
            theta -= 0.05 * step.shared["theta"]
    assert learned.weights()["near"] > 0.9
    assert learned.weights()["away"] >= 0.05  # the floor
    assert (theta - targets["near"]).norm() < 0.4  # with equal weights, 1.1


@pytest.mark.parametrize("kind", [Alignment, Famo])
def test_weights_are_a_distribution_and_go_on_from_a_state(kind: type[LanguageWeights]) -> None:
    names = [*LANGUAGES, "en"]
    whole, first = kind(names), kind(names)
    assert whole.weights() == dict.fromkeys(names, 0.25)
    for losses, alignment in steps(3)[:10]:
        first.observe(losses, alignment)
    second = kind(names)
    second.load_state({name: entry.clone() for name, entry in first.state().items()})
    for number, (losses, alignment) in enumerate(steps(3)):
        whole.observe(losses, alignment)
        if number >= 10:
            second.observe(losses, alignment)
        assert sum(whole.weights().values()) == pytest.approx(1)
        assert min(whole.weights().values()) > 0
    assert whole.weights() == second.weights()
    with pytest.raises(ValueError, match="the tensors"):
        whole.load_state({})
    with pytest.raises(ValueError, match=r"`logits` of torch.float64, \(3,\)"):
        whole.load_state({**whole.state(), "logits": torch.zeros(3, dtype=torch.float64)})


def test_what_cannot_be_learned_from_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"must not be negative. Found {'da': -0.5}"):
        Famo(["te", "da"]).observe({"te": 1.0, "da": -0.5}, {})
    for rate in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigurationError, match="step size of learned weights"):
            Alignment(["te", "da"], rate)


def test_a_loss_of_zero_does_not_take_all_the_weight() -> None:
    learned = Famo(["te", "da"])
    learned.observe({"te": 0.0, "da": 1.0}, {})
    assert learned.weights()["da"] == pytest.approx(1e-3 / 1.001)
