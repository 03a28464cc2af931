"""What the log says about losses and the meta-signal."""

from __future__ import annotations

import warnings

import pytest
import torch

from hf_meta_adapters.meta import JointGradients, MetaGradients, MetaSignal
from hf_meta_adapters.training._step_log import StepLog


def joint(**losses: float) -> JointGradients:
    return JointGradients({}, {}, {key: torch.tensor(value) for key, value in losses.items()})


def meta(ratio: float, train: float = 1.0, ahead: float = 2.0) -> MetaGradients:
    signal = MetaSignal(*(torch.tensor(value) for value in (4.0, 4.0 * ratio, ratio, 0.5, ratio)))
    losses = {"train_loss": {"sw": torch.tensor(train)}, "meta_loss": {"sw": torch.tensor(ahead)}}
    empty = {name: {} for name in ("shared", "train", "direct", "indirect", "language_meter")}
    return MetaGradients(**empty, **losses, meter=signal)


def lines(*ratios: float | None) -> list[dict[str, float]]:
    """The log lines of one step each; `None` is a step without a meta-gradient."""
    log, found = StepLog(), []
    for ratio in ratios:
        log.add(joint(sw=1.0) if ratio is None else meta(ratio))
        found.append(log.drain())
    return found


def test_means_over_the_steps_that_have_a_value():
    log = StepLog()
    log.add(joint(en=1.0, sw=4.0))
    log.add(joint(en=3.0))
    log.add(meta(0.5, train=8.0, ahead=2.0))
    log.add(meta(1.0, train=100.0, ahead=4.0), losses=False)
    assert log.drain() == {
        "loss_en": 2.0,
        "loss_sw": 6.0,
        "meta_loss_sw": 3.0,
        "meta_direct_norm": 4.0,
        "meta_indirect_norm": 3.0,
        "meta_indirect_ratio": 0.75,
        "meta_raw_indirect_ratio": 0.75,
        "meta_cosine": 0.5,
    }
    assert log.drain() == {}


def test_a_half_precision_loss_is_averaged_in_single_precision():
    log = StepLog()
    for _ in range(3):
        log.add(JointGradients({}, {}, {"en": torch.tensor(40_000.0, dtype=torch.float16)}))
    assert log.drain() == {"loss_en": 40_000.0}


def test_keeps_no_graph_and_nothing_per_step():
    log = StepLog()
    for _ in range(3):
        log.add(JointGradients({}, {}, {"en": torch.ones((), requires_grad=True) * 2}))
    ((total, steps),) = log._sums.values()
    assert (total.requires_grad, total.numel(), steps) == (False, 1, 3)


def test_warns_once_when_three_lines_in_a_row_are_negligible():
    with pytest.warns(
        UserWarning, match=r"0\.50% of the direct part.*`inner_learning_rate`"
    ) as caught:
        lines(0.005, 0.005, 0.005, 0.005, 0.005, 0.005)
    assert len(caught) == 1


@pytest.mark.parametrize(
    "ratios",
    [
        (0.005, 0.005, 0.5, 0.005, 0.005),  # not in a row
        (0.0, 0.0, 0.0, 0.0),  # switched off by `meta_gradient="first_order"`
        (None, None, None, None),
        (0.02, 0.02, 0.02, 0.02),
    ],
)
def test_does_not_warn(ratios):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines(*ratios)


def test_steps_without_a_meta_gradient_do_not_interrupt_the_row():
    with pytest.warns(UserWarning, match="hardly acts"):
        lines(0.005, None, 0.005, None, 0.005)
