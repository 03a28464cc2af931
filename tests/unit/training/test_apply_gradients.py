"""From gradients to optimizers: groups, `.grad`, and the stop at what is not finite."""

from __future__ import annotations

import os

import pytest
import torch

from hf_meta_adapters.errors import NonFiniteLossError
from hf_meta_adapters.meta import JointGradients, MetaGradients, MetaSignal
from hf_meta_adapters.training._apply_gradients import apply_gradients
from hf_meta_adapters.training._finite_check import check_finite
from hf_meta_adapters.training._optimizer_groups import split_groups
from tests.training import make_model


def parameters(count: int) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.full((2,), float(k))) for k in range(count)]


def groups_of(optimizer: torch.optim.Optimizer) -> list[tuple[list[int], float, float]]:
    return [
        ([int(p[0]) for p in g["params"]], g["lr"], g["weight_decay"])
        for g in optimizer.param_groups
    ]


def test_adapters_get_groups_of_their_own_beside_the_groups_they_come_from():
    every = parameters(6)
    optimizer = torch.optim.AdamW(
        [{"params": every[:3], "weight_decay": 0.1}, {"params": every[3:]}], lr=0.5
    )
    split_groups(optimizer, [every[1], every[4], every[5]], 2.0)
    assert groups_of(optimizer) == [
        ([0, 2], 0.5, 0.1),
        ([3], 0.5, 0.01),
        ([1], 2.0, 0.1),
        ([4, 5], 2.0, 0.01),
    ]


def test_no_group_is_left_empty_and_none_is_made():
    every = parameters(2)
    optimizer = torch.optim.AdamW([{"params": every[:1]}, {"params": every[1:]}], lr=0.5)
    split_groups(optimizer, [], 2.0)
    assert [p for p, *_ in groups_of(optimizer)] == [[0], [1]]
    split_groups(optimizer, every, 2.0)
    assert [(p, rate) for p, rate, _ in groups_of(optimizer)] == [([0], 2.0), ([1], 2.0)]


def filled(named: dict, value: float) -> dict:
    return {name: torch.full_like(parameter, value) for name, parameter in named.items()}


def gradients(model, kind=MetaGradients, **changed):
    """θ has gradient 1, φ by training 2, by the meta-gradient 30; `da` is not in the step."""
    present = ("te", "zh-Hant")
    parts = {
        "shared": filled(model.shared_parameters(), 1.0),
        "train": {key: filled(model.language_parameters(key), 2.0) for key in present},
        "train_loss": {key: torch.tensor(1.0) for key in present},
    }
    if kind is MetaGradients:
        signal = MetaSignal(*(torch.tensor(0.1) for _ in range(5)))
        half = {key: filled(model.language_parameters(key), 15.0) for key in present}
        parts |= {"direct": half, "indirect": half, "meter": signal}
        parts |= {
            "meta_loss": dict(parts["train_loss"]),
            "language_meter": dict.fromkeys(present, signal),
        }
    return kind(**{**parts, **changed})


def values(named: dict) -> set[float | None]:
    """The distinct entries of the gradients."""
    found: set[float | None] = set()
    for parameter in named.values():
        found |= {None} if parameter.grad is None else set(parameter.grad.unique().tolist())
    return found


@pytest.mark.parametrize(
    ("kind", "update", "expected"),
    [
        (MetaGradients, "meta", 30.0),
        (MetaGradients, "meta+train", 32.0),
        (MetaGradients, "train", 2.0),
        (JointGradients, "meta", None),
        (JointGradients, "meta+train", 2.0),
        (JointGradients, "train", 2.0),
    ],
)
@pytest.mark.parametrize("shared", [True, False])
def test_gradients_go_where_the_update_says(kind, update, expected, shared):
    model = make_model()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)  # of a step before
    apply_gradients(model, gradients(model, kind), update, shared=shared)
    assert values(model.shared_parameters()) == ({1.0} if shared else {None})
    assert (
        values(model.language_parameters("te"))
        == values(model.language_parameters("zh-Hant"))
        == {expected}
    )
    assert values(model.language_parameters("da")) == {None}


def test_the_loss_scale_multiplies_every_gradient():
    model = make_model()
    apply_gradients(model, gradients(model), "meta+train", torch.tensor(4.0))
    assert values(model.shared_parameters()) == {4.0}
    assert values(model.language_parameters("te")) == {128.0}


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_fused_optimizers_update_the_entries_that_a_transposed_gradient_is_of(kind):
    """They read gradient and parameter as they lie in memory."""
    model = make_model()
    named = {**model.shared_parameters(), **model.language_parameters("te")}
    matrices = {name: p for name, p in named.items() if p.dim() == 2 and min(p.shape) > 1}
    before = {name: p.detach().clone() for name, p in named.items()}

    torch.manual_seed(0)
    noise = {name: torch.randn(p.shape[::-1]).t() for name, p in matrices.items()}
    shared = {name: noise[name] for name in model.shared_parameters() if name in noise}
    own = {name: noise[name] for name in model.language_parameters("te") if name in noise}
    assert shared
    assert own
    apply_gradients(
        model, gradients(model, JointGradients, shared=shared, train={"te": own}), "train"
    )
    kind(matrices.values(), lr=0.1, weight_decay=0.0, fused=True).step()

    for name, parameter in matrices.items():
        plain = before[name].requires_grad_()
        plain.grad = noise[name].contiguous()
        kind([plain], lr=0.1, weight_decay=0.0).step()
        torch.testing.assert_close(parameter, plain)


def test_the_gradient_of_a_parameter_that_no_loss_reaches_is_none():
    model = make_model()
    name = next(iter(model.shared_parameters()))
    apply_gradients(
        model,
        gradients(model, shared={name: torch.ones_like(model.shared_parameters()[name])}),
        "meta",
    )
    assert [n for n, p in model.shared_parameters().items() if p.grad is not None] == [name]


NAN, INFINITY = torch.tensor(float("nan")), torch.tensor(float("inf"))
ONE = torch.tensor(1.0)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (
            {"train_loss": {"te": ONE, "zh-Hant": NAN}},
            "in the training loss of 'zh-Hant' after 5 steps",
        ),
        (
            {"meta_loss": {"te": INFINITY, "zh-Hant": NAN}},
            "in the meta loss of 'te', the meta loss of 'zh-Hant' after",
        ),
        (
            {"language_meter": {"te": MetaSignal(ONE, NAN, NAN, NAN, NAN)}},
            "in the meta-gradient of 'te' after 5 steps",
        ),
        (
            {"shared": {"w": torch.tensor([1.0, float("inf")])}},
            "in the gradient of the shared weights after 5 steps",
        ),
    ],
)
def test_stops_at_what_is_not_finite_and_names_it(changed, named, tmp_path):
    model = make_model()
    with pytest.raises(NonFiniteLossError) as caught:
        check_finite(gradients(model, **changed), 5, tmp_path)
    assert named in str(caught.value)
    assert "No checkpoint was saved yet." in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_the_last_checkpoint(tmp_path):
    for age, step in enumerate((9, 10, 11)):  # by time, not by name
        (tmp_path / f"checkpoint-{step}").mkdir()
        os.utime(tmp_path / f"checkpoint-{step}", (1000 - age, 1000 - age))
    with pytest.raises(
        NonFiniteLossError, match=rf"The last checkpoint is {tmp_path / 'checkpoint-9'}\."
    ):
        check_finite(gradients(make_model(), train_loss={"te": NAN}), 12, str(tmp_path))


@pytest.mark.parametrize("kind", [JointGradients, MetaGradients])
def test_goes_on_where_all_is_finite(kind, tmp_path):
    model = make_model()
    check_finite(gradients(model, kind), 5, tmp_path)
    check_finite(gradients(model, kind, shared={}), 5, tmp_path)  # θ frozen
