"""The look-ahead to the next step against autograd through the real step of the optimizer."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import Tensor

from hf_meta_adapters.errors import ConfigurationError, LanguageError
from hf_meta_adapters.meta import meta_gradient
from hf_meta_adapters.meta.next_step import next_step_gradient

from .problems import LANGUAGES, Named, Problem, make
from .test_gradient import flat, relative

RATE = 0.05
ADAM = {"lr": RATE, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}
MOMENTUM = {"lr": RATE, "momentum": 0.7}
OPTIMIZERS = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, **ADAM),
    "adam": lambda parameters: torch.optim.Adam(parameters, **ADAM),
    "sgd": lambda parameters: torch.optim.SGD(parameters, RATE, weight_decay=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, dampening=0.2, **MOMENTUM),
    "nesterov": lambda parameters: torch.optim.SGD(parameters, nesterov=True, **MOMENTUM),
}


def updated(optimizer: torch.optim.Optimizer, state: dict, theta: Tensor, g: Tensor) -> Tensor:
    """θ_{t+1} as a function of g, written down from the papers; `state` is that before the step."""
    group = optimizer.param_groups[0]
    rate, decay = group["lr"], group["weight_decay"]

    if isinstance(optimizer, torch.optim.SGD):
        g = g + decay * theta
        if not group["momentum"]:
            return theta - rate * g
        buffer = state.get("momentum_buffer")
        buffer = g if buffer is None else group["momentum"] * buffer + (1 - group["dampening"]) * g
        return theta - rate * (g + group["momentum"] * buffer if group["nesterov"] else buffer)

    if isinstance(optimizer, torch.optim.AdamW):
        theta = theta * (1 - rate * decay)
    else:
        g = g + decay * theta
    (b1, b2), t = group["betas"], int(state.get("step", 0)) + 1
    m = b1 * state.get("exp_avg", 0.0) + (1 - b1) * g
    v = b2 * state.get("exp_avg_sq", 0.0) + (1 - b2) * g.square()
    return theta - rate * m / (1 - b1**t) / ((v / (1 - b2**t)).sqrt() + group["eps"])


class Run:
    """A run on a problem: step t has the batches of "train", step t + 1 those of "meta"."""

    def __init__(self, name: str, case: Problem | None = None, clip: float | None = None) -> None:
        self.problem = case or make()
        self.clip = clip
        named = [self.problem.shared, *self.problem.language.values()]
        self.optimizer = OPTIMIZERS[name]([p for each in named for p in each.values()])

    def gradients(self, role: str, kept=None, languages=LANGUAGES, parts: int = 1, **options):
        losses = self.problem.losses(role, parts)
        return next_step_gradient(
            {key: losses[key] for key in languages},
            self.problem.shared,
            self.problem.language,
            optimizer=self.optimizer,
            kept=kept,
            **options,
        )

    def step(self, gradients) -> None:
        """Do with the gradients what a training loop does."""
        for name, p in self.problem.shared.items():
            p.grad = gradients.shared.get(name)
        for key, named in self.problem.language.items():
            for name, p in named.items():
                p.grad = gradients.language.get(key, {}).get(name)

        self.before = copy.deepcopy(
            {name: self.optimizer.state.get(p, {}) for name, p in self.problem.shared.items()}
        )
        self.factor = 1.0
        if self.clip:
            every = [p for group in self.optimizer.param_groups for p in group["params"]]
            length = torch.nn.utils.clip_grad_norm_(every, self.clip)
            self.factor = min(1.0, self.clip / (length.item() + 1e-6))
        self.optimizer.step()


def steps(run: Run, warm_up: int = 2, first=LANGUAGES, then=LANGUAGES, **options):
    """The gradients at t + 1, and those of autograd through the step t, after a few others."""
    for _ in range(warm_up):
        run.step(run.gradients("train"))

    # The reference works on copies: the optimizer changes the tensors of the run in place.
    case = run.problem
    twin = copy.deepcopy(case)
    before = run.gradients("train", languages=first, **options)
    run.step(before)
    found = run.gradients("meta", before.kept, languages=then, **options)

    slopes: Named = {}
    for key in first:
        value = twin.value("train", key, twin.shared, twin.language[key]) / len(first)
        terms = torch.autograd.grad(
            value, list(twin.shared.values()), create_graph=True, allow_unused=True
        )
        for name, term in zip(twin.shared, terms, strict=True):
            if term is not None:
                slopes[name] = slopes.get(name, 0.0) + run.factor * term

    ahead = dict(twin.shared)
    for name, slope in slopes.items():
        start = twin.shared[name].detach()
        ahead[name] = updated(run.optimizer, run.before[name], start, slope)
        torch.testing.assert_close(ahead[name], case.shared[name], rtol=1e-12, atol=1e-14)

    # φ has moved as well: by a constant.
    moved = {
        key: {n: p + (case.language[key][n] - p).detach() for n, p in named.items()}
        for key, named in twin.language.items()
    }
    loss = sum(twin.value("meta", key, ahead, moved[key]) for key in then) / len(then)
    expected = {}
    for key, named in twin.language.items():
        terms = torch.autograd.grad(
            loss, list(named.values()), retain_graph=True, allow_unused=True
        )
        present = {n: t for n, t in zip(named, terms, strict=True) if t is not None}
        if present:
            expected[key] = present
    return found, expected


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("warm_up", [0, 3])
@pytest.mark.parametrize("estimator", ["exact", "forward_mode"])
def test_equals_autograd_through_the_optimizer(name, warm_up, estimator) -> None:
    found, expected = steps(Run(name), warm_up, meta_gradient=estimator)
    assert relative(flat(found.language), flat(expected)) < 1e-8
    assert flat(found.indirect).norm() > 0.01 * flat(found.direct).norm()


@pytest.mark.parametrize("clip", [0.05, 0.5])
def test_clipping_multiplies_by_a_constant(clip) -> None:
    run = Run("adamw", clip=clip)
    found, expected = steps(run, meta_gradient="exact")
    assert run.factor < 0.9
    assert relative(flat(found.language), flat(expected)) < 1e-8


@pytest.mark.parametrize("scheme", ["central", "one_sided"])
def test_finite_differences_point_the_same_way(scheme) -> None:
    found, expected = steps(Run("adamw"), finite_difference_scheme=scheme)
    cosine = torch.cosine_similarity(flat(found.language), flat(expected), dim=0)
    assert cosine >= 0.999
    assert relative(flat(found.language), flat(expected)) < 1e-4


@pytest.mark.parametrize("scheme", ["central", "one_sided"])
def test_float32(scheme) -> None:
    run = Run("adamw", make(dtype=torch.float32))
    for _ in range(2):
        run.step(run.gradients("train"))
    before = run.gradients("train", finite_difference_scheme=scheme)
    run.step(before)
    found = run.gradients("meta", before.kept, finite_difference_scheme=scheme)
    expected = run.gradients("meta", before.kept, meta_gradient="exact")
    cosine = torch.cosine_similarity(flat(found.indirect), flat(expected.indirect), dim=0)
    assert cosine >= 0.999


def test_micro_batches_add_up() -> None:
    whole, _ = steps(Run("adamw", make(dropout=0.0)), meta_gradient="exact")
    parts, _ = steps(Run("adamw", make(dropout=0.0)), meta_gradient="exact", parts=3)
    assert relative(flat(parts.indirect), flat(whole.indirect)) < 1e-10
    assert relative(flat(parts.direct), flat(whole.direct)) < 1e-10


def test_languages_of_one_step_only() -> None:
    found, expected = steps(
        Run("adamw"), first=["te", "da"], then=["da", "zh-Hant"], meta_gradient="exact"
    )
    assert relative(flat(found.language), flat(expected)) < 1e-8
    assert set(found.language) == set(LANGUAGES)
    assert not found.direct["te"]
    assert found.indirect["te"]
    assert found.direct["zh-Hant"]
    assert not found.indirect["zh-Hant"]


def test_parameters_and_optimizer_stay_as_they_were() -> None:
    run = Run("adamw")
    before = run.gradients("train")
    run.step(before)
    named = [run.problem.shared, *run.problem.language.values()]
    every = [p for each in named for p in each.values()]
    values = [p.detach().clone() for p in every]
    state = copy.deepcopy(run.optimizer.state_dict())
    run.gradients("meta", before.kept)
    assert all(torch.equal(p, value) for p, value in zip(every, values, strict=True))
    torch.testing.assert_close(run.optimizer.state_dict(), state, rtol=0, atol=0)


def test_entries_that_no_loss_reached_have_no_slope() -> None:
    """A weight that had gradients before, and has none now: Adam's slope there is nearly η/ε."""
    theta = torch.ones(4, dtype=torch.float64, requires_grad=True)
    phi = torch.full((4,), 0.5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([theta], lr=0.1, weight_decay=0.0)

    def gradients(mask: Tensor, kept=None):
        loss = lambda: (mask * theta * phi).square().sum()  # noqa: E731
        return next_step_gradient(
            {"sw": loss},
            {"w": theta},
            {"sw": {"a": phi}},
            optimizer=optimizer,
            kept=kept,
            meta_gradient="exact",
        )

    for mask in (torch.ones(4), torch.tensor([1.0, 1.0, 1.0, 0.0])):
        now = gradients(mask)
        theta.grad = now.shared["w"]
        optimizer.step()

    kept = now.kept
    assert kept is not None
    assert kept.derivative is not None
    assert kept.derivative[0][3] == 0
    assert (kept.derivative[0][:3] != 0).all()


def test_a_skipped_step_leaves_the_direct_part_alone() -> None:
    run = Run("adamw")
    before = run.gradients("train")
    found = run.gradients("meta", before.kept)  # as when fp16 overflows
    assert not any(found.indirect.values())
    assert found.meter.ratio == 0
    torch.testing.assert_close(found.direct, found.train)
    torch.testing.assert_close(found.meta_loss, found.train_loss)


def test_first_order_is_joint_training() -> None:
    found, _ = steps(Run("adamw"), meta_gradient="first_order")
    assert not any(found.indirect.values())


def test_a_held_ratio() -> None:
    plain, _ = steps(Run("adamw"), meta_gradient="exact")
    held, _ = steps(Run("adamw"), meta_gradient="exact", indirect_ratio=1.5)
    torch.testing.assert_close(held.meter.ratio, torch.tensor(1.5, dtype=torch.float64))
    torch.testing.assert_close(held.meter.raw_ratio, plain.meter.ratio)
    assert torch.cosine_similarity(flat(held.indirect), flat(plain.indirect), dim=0) > 1 - 1e-9


def test_two_steps_of_the_optimizer_are_refused() -> None:
    run = Run("adamw")
    before = run.gradients("train")
    run.step(before)
    run.optimizer.step()
    with pytest.raises(ConfigurationError, match=r"exactly one step of the optimizer.*Found 2"):
        run.gradients("meta", before.kept)


def test_a_dropped_result_leaves_no_hook() -> None:
    run = Run("adamw")
    before = run.gradients("train")
    assert len(run.optimizer._optimizer_step_post_hooks) == 1
    del before
    gc.collect()
    assert not run.optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize(
    ("make_optimizer", "found"),
    [
        (lambda ps: torch.optim.RAdam(ps), "RAdam"),
        (lambda ps: torch.optim.NAdam(ps), "NAdam"),
        (lambda ps: torch.optim.Adagrad(ps), "Adagrad"),
        (lambda ps: torch.optim.AdamW(ps, amsgrad=True), r"AdamW\(amsgrad=True\)"),
        (lambda ps: torch.optim.SGD(ps, 0.1, maximize=True), r"SGD\(maximize=True\)"),
        (lambda ps: torch.optim.AdamW(ps[:1]), "AdamW without a parameter of θ"),
    ],
)
def test_optimizers_without_a_known_derivative(make_optimizer, found) -> None:
    case = make()
    optimizer = make_optimizer([*case.shared.values()])
    with pytest.raises(ConfigurationError, match=f"derivative of the step.*Found {found}"):
        next_step_gradient(case.losses("train"), case.shared, case.language, optimizer=optimizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_steps": 2}, 'Found `lookahead="next"`'),
        ({"meta_languages": "others"}, "validates on the training losses of the next step"),
        ({"cpu_offload": True}, "keeps what it needs on the device"),
        ({"indirect_ratio": 0.0}, "`indirect_ratio` must be positive"),
        ({"indirect_ratio": 1.0, "max_indirect_ratio": 1.0}, "Found both, 1.0 and 1.0"),
        ({"indirect_ratio": 1.0, "meta_gradient": "first_order"}, "which has no indirect part"),
        ({"indirect_ratio_scope": "each"}, "`indirect_ratio_scope` must be one of"),
    ],
)
def test_options_that_cannot_work(options, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Run("adamw").gradients("train", **options)


def test_languages_and_the_one_step_function() -> None:
    run = Run("adamw")
    with pytest.raises(LanguageError, match="at least one language"):
        run.gradients("train", languages=[])

    case = run.problem
    losses = case.losses("train")
    with pytest.raises(ConfigurationError, match="Use `next_step`"):
        meta_gradient(
            losses, losses, case.shared, case.language, inner_learning_rate=0.1, lookahead="next"
        )


@pytest.mark.parametrize("used", [0, 1, 2], ids="row {}".format)
def test_by_what_a_gradient_was_clipped_is_seen_in_any_row(used: int) -> None:
    """In the first one, or where that is zero, in all."""
    theta = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    phi = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=0.1)
    losses = {"en": lambda: (theta[used] * phi).square().sum()}
    found = next_step_gradient(losses, {"w": theta}, {"en": {"a": phi}}, optimizer=optimizer)
    theta.grad = found.shared["w"]
    length = torch.nn.utils.clip_grad_norm_([theta], 0.5)
    optimizer.step()

    assert found.kept is not None
    assert found.kept.derivative is not None
    expected = torch.zeros(3, 2, dtype=torch.float64)
    expected[used] = 0.1 * 0.5 / (length + 1e-6)
    torch.testing.assert_close(found.kept.derivative[0], expected, rtol=1e-12, atol=0)
