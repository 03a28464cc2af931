"""The loss scale of fp16: small gradients survive, nothing else changes, and steps that overflow
lower it.
"""

from __future__ import annotations

import pytest
import torch

from hf_meta_adapters import joint_step
from hf_meta_adapters.errors import NonFiniteLossError
from tests.training import Recorder, make_model, make_trainer, snapshot
from tests.unit.steps.test_meta_step import (
    ESTIMATORS,
    LOOKAHEADS,
    batches,
    everything,
    flat,
    relative,
    step,
)

SMALL = 2.0**-16


def half():
    return torch.autocast("cpu", dtype=torch.float16)


def small_loss(model, batch):
    return model(**batch).loss * SMALL


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_it_changes_nothing_where_nothing_is_rounded_to_zero(estimator, lookahead):
    model = make_model(dtype=torch.float64)
    given = {"meta_gradient": estimator, "lookahead": lookahead}
    found = step(model, loss_scale=torch.tensor(1024.0, dtype=torch.float64), **given)
    assert relative(everything(found), everything(step(model, **given))) < 1e-9


def test_joint_training_likewise():
    model, scale = make_model(dtype=torch.float64), torch.tensor(1024.0, dtype=torch.float64)
    found, expected = (joint_step(model, batches(1), loss_scale=one) for one in (scale, None))
    assert relative(everything(found), everything(expected)) < 1e-12


@pytest.mark.parametrize("estimator", ["exact", "finite_difference"])
def test_gradients_that_half_precision_rounds_to_zero_are_kept(estimator):
    model = make_model()
    given = {"loss_function": small_loss, "inner_learning_rate": 0.1 / SMALL, "lookahead": "shared"}
    truth = step(model, meta_gradient="exact", **given)

    def cosines(scale):
        found = step(model, meta_gradient=estimator, autocast=half, loss_scale=scale, **given)
        pairs = [
            (getattr(found, part), getattr(truth, part))
            for part in ("shared", "direct", "indirect")
        ]
        return [
            torch.cosine_similarity(flat(one).double(), flat(two).double(), dim=0).item()
            for one, two in pairs
        ]

    assert min(cosines(torch.tensor(1 / SMALL))) > 0.98
    assert min(cosines(None)) < 0.9


class Scaled(Recorder):
    """Trains in fp16 on the CPU, which Accelerate scales no losses on."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.accelerator.scaler = torch.amp.GradScaler(
            "cpu", init_scale=2.0**40, growth_interval=1000
        )
        self.accelerator.autocast = half
        self.states = []

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.states.append((snapshot(self.model), self.accelerator.scaler.get_scale()))
        return super().training_step(model, inputs, num_items_in_batch)


@pytest.mark.parametrize(
    "method", [{}, {"adapter_update": "train"}, {"meta_gradient": "exact", "lookahead": "shared"}]
)
def test_steps_that_overflow_are_left_out_counted_and_lower_it(tmp_path, method):
    trainer = make_trainer(
        tmp_path, make_model(), kind=Scaled, max_steps=40, max_grad_norm=0.0, **method
    )
    trainer.train()
    trainer.states.append((snapshot(trainer.model), trainer.accelerator.scaler.get_scale()))
    skipped = 0
    for (before, scale), (after, next_scale) in zip(
        trainer.states, trainer.states[1:], strict=False
    ):
        if next_scale < scale:
            skipped += 1
            assert next_scale == scale / 2
            assert [name for name in before if not torch.equal(before[name], after[name])] == []
        else:
            assert [name for name in before if not torch.equal(before[name], after[name])] != []
    assert 0 < skipped < 40
    assert trainer.progress.overflow_steps == skipped
    assert trainer.state.log_history[-2]["overflow_steps"] == skipped
    assert trainer.progress.nonfinite_steps == 0


def test_a_loss_that_is_not_finite_is_no_overflow(tmp_path):
    trainer = make_trainer(tmp_path, make_model(), kind=Scaled, max_grad_norm=0.0)
    trainer._outer_step._loss_function = lambda model, batch: model(**batch).loss * float("nan")
    with pytest.raises(NonFiniteLossError, match="in the training loss of"):
        trainer.train()
