"""Every estimator and look-ahead against full unrolling, numerical differentiation and
hand-computed values.
"""

from __future__ import annotations

import pytest
import torch

from hf_meta_adapters.errors import ConfigurationError, LanguageError
from hf_meta_adapters.meta import Adam, meta_gradient
from hf_meta_adapters.meta.adam import AdamState

from .problems import LANGUAGES, Problem, make, unrolled

PROBLEMS = ["network", "attention"]
EXACT = ["exact", "forward_mode"]


def flat(named: dict[str, dict[str, torch.Tensor]]) -> torch.Tensor:
    return torch.cat(
        [named[key][name].reshape(-1) for key in sorted(named) for name in sorted(named[key])]
    )


def step(problem: Problem, rate: float = 0.5, parts: int = 1, **options):
    return meta_gradient(
        problem.losses("train", parts),
        problem.losses("meta", parts),
        problem.shared,
        problem.language,
        inner_learning_rate=rate,
        **options,
    )


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def adam_states(problem: Problem) -> list[AdamState | None]:
    draw = torch.Generator().manual_seed(5)
    states = []
    for name, p in problem.shared.items():
        m = torch.randn(p.shape, generator=draw, dtype=p.dtype) * 0.1
        v = torch.rand(p.shape, generator=draw, dtype=p.dtype) * 0.01
        states.append(None if name == "first" else AdamState(m, v, 7, (0.9, 0.99), 1e-6))
    return states


def adam_rule(problem: Problem):
    states = dict(zip(problem.shared, adam_states(problem), strict=True))

    def rule(g: torch.Tensor, name: str) -> torch.Tensor:
        state = states[name] or AdamState(
            torch.zeros_like(g), torch.zeros_like(g), 0, (0.9, 0.999), 1e-8
        )
        (b1, b2), t = state.betas, state.steps + 1
        m = (b1 * state.first_moment + (1 - b1) * g) / (1 - b1**t)
        v = (b2 * state.second_moment + (1 - b2) * g * g) / (1 - b2**t)
        return m / (v.sqrt() + state.epsilon)

    return rule


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("estimator", EXACT)
@pytest.mark.parametrize("lookahead", ["per_language", "shared", "none"])
@pytest.mark.parametrize("languages", ["all", "others"])
def test_equals_full_unrolling(problem, estimator, lookahead, languages):
    case = make(problem)
    found = step(case, meta_gradient=estimator, lookahead=lookahead, meta_languages=languages)
    expected = unrolled(case, rate=0.5, lookahead=lookahead, others=languages == "others")
    assert relative(flat(found.language), flat(expected)) < 1e-10
    assert (
        flat(found.indirect).norm() > 0.01 * flat(expected).norm()
    )  # the second-order part is alive in this problem


@pytest.mark.parametrize("estimator", EXACT)
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
def test_inner_steps_optimizers_and_micro_batches_equal_full_unrolling(
    estimator, steps, adam, parts
):
    case = make()
    found = step(
        case,
        rate=0.05,
        parts=parts,
        meta_gradient=estimator,
        lookahead="per_language",
        inner_steps=steps,
        inner_optimizer=Adam(adam_states(case)) if adam else None,
    )
    extra = {"rule": adam_rule(case)} if adam else {}
    expected = unrolled(case, rate=0.05, steps=steps, parts=parts, **extra)
    assert relative(flat(found.language), flat(expected)) < 1e-10


def test_shared_look_ahead_with_adam_equals_its_reference():
    case = make()
    found = step(
        case, meta_gradient="exact", lookahead="shared", inner_optimizer=Adam(adam_states(case))
    )
    expected = unrolled(case, rate=0.5, lookahead="shared", rule=adam_rule(case))
    assert relative(flat(found.language), flat(expected)) < 1e-10


@pytest.mark.parametrize("scheme", ["central", "one_sided"])
@pytest.mark.parametrize("lookahead", ["per_language", "shared", "none"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_finite_differences_come_close_in_float32(scheme, lookahead, problem):
    options = {"lookahead": lookahead}
    exact = step(make(problem), meta_gradient="exact", **options)
    found = step(
        make(problem, dtype=torch.float32),
        meta_gradient="finite_difference",
        finite_difference_scheme=scheme,
        **options,
    )
    cosine = torch.cosine_similarity(flat(found.indirect).double(), flat(exact.indirect), dim=0)
    assert cosine > (0.99999 if scheme == "central" else 0.9995)
    assert relative(flat(found.indirect).double(), flat(exact.indirect)) < (
        5e-3 if scheme == "central" else 5e-2
    )


@pytest.mark.parametrize("scheme", ["central", "one_sided"])
def test_finite_differences_through_several_inner_steps(scheme):
    case = make()
    options = {"lookahead": "per_language", "inner_steps": 3}
    exact = step(case, meta_gradient="exact", **options)
    found = step(
        case, meta_gradient="finite_difference", finite_difference_scheme=scheme, **options
    )
    assert relative(flat(found.language), flat(exact.language)) < (
        1e-6 if scheme == "central" else 1e-4
    )


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_what_is_kept_on_the_cpu_gives_the_same_gradients(device):
    case = make().on(device)
    for lookahead in ("per_language", "shared", "none"):
        for languages in ("all", "others"):
            options = {"lookahead": lookahead, "meta_languages": languages}
            here, kept = (step(case, cpu_offload=offload, **options) for offload in (False, True))
            assert torch.equal(flat(here.language), flat(kept.language))
            assert torch.equal(flat({"θ": here.shared}), flat({"θ": kept.shared}))


def test_equals_numerical_differentiation_of_the_outer_loss():
    case = make()
    found = step(case, meta_gradient="exact", lookahead="per_language").language

    def outer(key: str) -> float:
        theta = {}
        slopes = torch.autograd.grad(
            case.value("train", key, case.shared, case.language[key]),
            list(case.shared.values()),
            allow_unused=True,
        )
        for (name, p), g in zip(case.shared.items(), slopes, strict=True):
            theta[name] = p if g is None else p - 0.5 * g
        return sum(case.value("meta", j, theta, case.language[j]).item() for j in LANGUAGES) / 3

    for key in LANGUAGES:
        for name, p in case.language[key].items():
            if name == "idle":
                assert name not in found[key]
                continue
            for position in (0, p.numel() - 1):
                entry, h = p.data.view(-1), 1e-5
                start = entry[position].item()
                entry[position] = start + h
                above = outer(key)
                entry[position] = start - h
                below = outer(key)
                entry[position] = start
                numeric = (above - below) / (2 * h)
                assert found[key][name].reshape(-1)[position].item() == pytest.approx(
                    numeric, rel=1e-5, abs=1e-9
                )


@pytest.mark.parametrize("estimator", ["exact", "forward_mode", "finite_difference", "first_order"])
@pytest.mark.parametrize("lookahead", ["per_language", "shared", "none"])
def test_leaves_everything_bitwise_as_it_was(estimator, lookahead):
    case = make(dtype=torch.float32)
    before = {k: p.detach().clone() for k, p in case.shared.items()}
    own = {
        (key, k): p.detach().clone()
        for key, named in case.language.items()
        for k, p in named.items()
    }
    step(case, meta_gradient=estimator, lookahead=lookahead)
    assert all(torch.equal(before[k], p) for k, p in case.shared.items())
    assert all(torch.equal(value, case.language[key][k]) for (key, k), value in own.items())
    assert all(p.grad is None for p in case.shared.values())


def test_an_error_in_a_loss_leaves_theta_restored():
    case = make()
    before = {k: p.detach().clone() for k, p in case.shared.items()}
    losses = case.losses("meta")

    def broken():
        raise RuntimeError("out of paper")

    losses["da"] = broken
    with pytest.raises(RuntimeError, match="out of paper"):
        meta_gradient(
            case.losses("train"), losses, case.shared, case.language, inner_learning_rate=0.5
        )
    assert all(torch.equal(before[k], p) for k, p in case.shared.items())


def test_parts_sum_to_the_whole_and_train_gradients_are_those_of_joint_training():
    case = make()
    found = step(case, meta_gradient="exact", lookahead="per_language")
    joint = sum(case.value("train", key, case.shared, case.language[key]) for key in LANGUAGES) / 3
    for name in ("first", "second"):
        (slope,) = torch.autograd.grad(joint, [case.shared[name]], retain_graph=True)
        torch.testing.assert_close(found.shared[name], slope)
    assert "unused" not in found.shared
    for key in LANGUAGES:
        (slope,) = torch.autograd.grad(joint, [case.language[key]["up"]], retain_graph=True)
        torch.testing.assert_close(found.train[key]["up"], slope)
        torch.testing.assert_close(
            found.direct[key]["up"] + found.indirect[key]["up"], found.language[key]["up"]
        )
        value = case.value("train", key, case.shared, case.language[key])
        torch.testing.assert_close(found.train_loss[key], value.detach())


def test_meter_measures_the_two_parts():
    found = step(make(), meta_gradient="exact", lookahead="per_language")
    direct, indirect = flat(found.direct), flat(found.indirect)
    meter = found.meter.to_dict()
    assert meter["direct_norm"] == pytest.approx(direct.norm().item())
    assert meter["ratio"] == pytest.approx((indirect.norm() / direct.norm()).item())
    assert meter["cosine"] == pytest.approx(torch.cosine_similarity(direct, indirect, dim=0).item())
    none = step(make(), meta_gradient="first_order").meter.to_dict()
    assert none["ratio"] == 0
    assert none["cosine"] == 0


def test_indirect_part_is_capped():
    found = step(make(), meta_gradient="exact", lookahead="per_language", max_indirect_ratio=0.1)
    plain = step(make(), meta_gradient="exact", lookahead="per_language")
    for key in LANGUAGES:
        assert plain.language_meter[key].ratio > 0.1
        assert found.language_meter[key].ratio.item() == pytest.approx(0.1)
        torch.testing.assert_close(found.direct[key], plain.direct[key])


def test_first_order_takes_one_validation_pass_per_language():
    case, calls = make(), []
    losses = {
        key: lambda key=key, loss=loss: calls.append(key) or loss()
        for key, loss in case.losses("meta").items()
    }
    found = meta_gradient(
        case.losses("train"),
        losses,
        case.shared,
        case.language,
        inner_learning_rate=0.5,
        meta_gradient="first_order",
        lookahead="per_language",
    )
    assert sorted(calls) == sorted(LANGUAGES)
    exact = step(case, meta_gradient="exact", lookahead="per_language")
    assert torch.equal(flat(found.language), flat(exact.direct))


@pytest.mark.parametrize("lookahead", ["per_language", "shared", "none"])
def test_for_languages_gives_the_same_gradients_for_a_part(lookahead):
    case = make()
    options = {"meta_gradient": "exact", "lookahead": lookahead}
    whole, part = step(case, **options), step(case, for_languages=["da"], **options)
    assert list(part.language) == ["da"]
    assert torch.equal(part.language["da"]["up"], whole.language["da"]["up"])


def test_random_numbers_are_replayed_and_move_on_once():
    """Losses that draw from the global generator: all passes of a step must see the same masks."""
    theta, phi = (
        torch.ones(50, dtype=torch.float64, requires_grad=True),
        torch.ones(50, dtype=torch.float64, requires_grad=True),
    )

    def loss():
        return (torch.nn.functional.dropout(theta * phi, 0.5) ** 2).mean()

    def run(estimator):
        torch.manual_seed(3)
        found = meta_gradient(
            {"en": loss},
            {"en": loss},
            {"w": theta},
            {"en": {"a": phi}},
            inner_learning_rate=0.1,
            meta_gradient=estimator,
            lookahead="per_language",
        )
        return found.indirect["en"]["a"], torch.rand(())

    (exact, after), (difference, later) = run("exact"), run("finite_difference")
    assert torch.cosine_similarity(exact, difference, dim=0) > 0.999999
    assert torch.equal(after, later)  # both drew one mask for training and one for validation


def test_sums_over_processes_give_the_gradient_of_the_global_batch():
    """Two processes, played one after the other: each holds half of the rows, and sums are
    exchanged in lockstep.
    """
    import threading

    whole = make(dropout=0.0)
    options = {"meta_gradient": "exact", "lookahead": "per_language", "inner_steps": 2}
    expected = step(whole, **options)
    barrier, box, results, failures = threading.Barrier(2), {}, {}, []

    def process(rank: int) -> None:
        case = make(dropout=0.0)

        def share(role: str) -> dict:
            return {
                key: lambda key=key: case.value(role, key, case.shared, case.language[key], rank, 2)
                for key in LANGUAGES
            }

        def all_reduce(tensor: torch.Tensor) -> None:
            box[rank] = tensor.clone()
            barrier.wait()
            total = box[0] + box[1]
            barrier.wait()
            tensor.copy_(total)

        try:
            results[rank] = meta_gradient(
                share("train"),
                share("meta"),
                case.shared,
                case.language,
                inner_learning_rate=0.5,
                all_reduce=all_reduce,
                **options,
            )
        except Exception as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert not failures
    for rank in range(2):
        assert relative(flat(results[rank].language), flat(expected.language)) < 1e-12
        torch.testing.assert_close(results[rank].shared, expected.shared)
        torch.testing.assert_close(results[rank].meta_loss, expected.meta_loss)
        torch.testing.assert_close(results[rank].train, expected.train)


def test_arguments_that_cannot_work():
    case = make()
    train, meta = case.losses("train"), case.losses("meta")

    def call(*args, **options):
        return meta_gradient(*args, inner_learning_rate=0.1, **options)

    with pytest.raises(LanguageError, match=r"`meta_losses` must have every language.*\['da'\]"):
        call(train, {key: meta[key] for key in ("te", "zh-Hant")}, case.shared, case.language)
    with pytest.raises(ConfigurationError, match=r"Found no shared .*`adapter_update=\"train\"`"):
        call(train, meta, {}, case.language)
    frozen = {**case.shared, "first": case.shared["first"].detach()}
    still = {"meta_gradient": "first_order", "lookahead": "none"}
    for options in ({}, still):
        with pytest.raises(ConfigurationError, match="`first`, which is frozen"):
            call(train, meta, frozen, case.language, **options)
    packed = {**case.shared, "first": torch.zeros(3, dtype=torch.uint8)}
    with pytest.raises(ConfigurationError, match="quantized"):
        call(train, meta, packed, case.language)
    half = {**case.shared, "first": case.shared["first"].detach().bfloat16().requires_grad_()}
    with pytest.raises(ConfigurationError, match=r"θ \+ εv differs from θ"):
        call(train, meta, half, case.language, meta_gradient="finite_difference")
    with pytest.raises(ConfigurationError, match='`meta_gradient` must be one of "exact"'):
        call(train, meta, case.shared, case.language, meta_gradient="extact")
    with pytest.raises(ConfigurationError, match="`lookahead"):
        call(train, meta, case.shared, case.language, lookahead="shared", inner_steps=2)
    with pytest.raises(ConfigurationError, match=r'`cpu_offload` needs .* Found "exact" and 1'):
        call(train, meta, case.shared, case.language, meta_gradient="exact", cpu_offload=True)
    with pytest.raises(ConfigurationError, match="at least two languages"):
        call(
            {"te": train["te"]},
            {"te": meta["te"]},
            case.shared,
            case.language,
            meta_languages="others",
        )


class Once(torch.autograd.Function):
    """x², differentiable once: autograd would leave out of a second derivative what passes through
    it.
    """

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return 2 * slope * ctx.saved_tensors[0]


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_an_operation_without_a_second_derivative_is_refused(micro_batches):
    theta, phi = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    losses = {"en": [lambda: Once.apply(theta * phi).square().sum()] * micro_batches}
    problem = (losses, losses, {"w": theta}, {"en": {"a": phi}})
    with pytest.raises(
        ConfigurationError,
        match=r'differentiate twice .* Use `meta_gradient="finite_difference"`',
    ):
        meta_gradient(*problem, inner_learning_rate=0.1, meta_gradient="exact")
    assert meta_gradient(
        *problem, inner_learning_rate=0.1, meta_gradient="finite_difference"
    ).indirect["en"]
