"""Steps that are not finite: skipped where that is allowed, counted, and without a trace in θ, φ
and the optimizer.
"""

from __future__ import annotations

import copy

import pytest
import torch

from hf_meta_adapters.errors import NonFiniteLossError
from hf_meta_adapters.training._adapter_snapshot import AdapterSnapshot
from hf_meta_adapters.training._apply_gradients import skip_step
from tests.training import Recorder, make_model, make_trainer, snapshot

METHODS = {
    "simultaneous": {},
    "paper": {"preset": "paper"},
    "alternating, shared look-ahead": {"update_order": "alternating"},
    "joint": {"adapter_update": "train"},
}


class Poisoned(Recorder):
    """The loss of `da` is NaN in some steps; what was there before and after is kept."""

    role, steps = "train", ()
    mark = torch.tensor(float("nan"))

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self.state.global_step in self.steps:
            inputs[self.role]["da"]["poison"] = self.mark
        self.states = [*getattr(self, "states", []), self.now()]
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(self, model, inputs, *args, **kwargs):
        poison = inputs.pop("poison", None)
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        return loss if poison is None else loss * poison

    def now(self):
        return snapshot(self.model), copy.deepcopy(self.optimizer.state_dict()["state"])


def poisoned(tmp_path, steps, role="train", **given):
    given = {"max_steps": 5, "skip_nonfinite_steps": 2, **given}
    trainer = make_trainer(tmp_path, make_model(), kind=Poisoned, **given)
    trainer.steps, trainer.role = steps, role
    return trainer


def equal(one, other):
    same = one[0].keys() == other[0].keys() and all(
        torch.equal(one[0][name], other[0][name]) for name in one[0]
    )
    if one[1].keys() != other[1].keys():
        return False
    return same and all(
        torch.equal(one[1][k][name], other[1][k][name]) for k in one[1] for name in one[1][k]
    )


@pytest.mark.parametrize(
    ("name", "role"),
    [
        (name, role)
        for name in METHODS
        for role in ("train", "meta")
        if (name, role) != ("joint", "meta")
    ],
)
def test_a_skipped_step_leaves_no_trace(tmp_path, name, role):
    trainer = poisoned(tmp_path, (0, 3), role, **METHODS[name])
    with pytest.warns(UserWarning, match=r"Step \d is skipped; \d more may be. .*loss of 'da'"):
        trainer.train()
    changed = [
        not equal(one, other)
        for one, other in zip(trainer.states, [*trainer.states[1:], trainer.now()], strict=True)
    ]
    assert changed == [False, True, True, False, True]
    logs = [line for line in trainer.state.log_history if "loss" in line]
    assert [line.get("nonfinite_steps", 0) for line in logs] == [1, 1, 1, 2, 2]
    assert all(
        line[f"loss_{key}"] > 0 for line in logs for key in ("te", "da") if f"loss_{key}" in line
    )


def test_one_more_than_allowed_stops_the_run(tmp_path):
    trainer = poisoned(tmp_path, (1, 2, 3))
    with (
        pytest.warns(UserWarning, match="is skipped"),
        pytest.raises(
            NonFiniteLossError, match=r"loss of 'da'.* after 3 steps.*`skip_nonfinite_steps=3`"
        ),
    ):
        trainer.train()
    assert trainer.state.global_step == 3


def test_none_may_be_skipped_by_default(tmp_path):
    with pytest.raises(NonFiniteLossError, match="after 1 steps"):
        poisoned(tmp_path, (1,), skip_nonfinite_steps=0).train()


def test_a_resumed_run_goes_on_counting(tmp_path):
    saved = {"save_strategy": "steps", "save_steps": 2}
    with pytest.warns(UserWarning, match="Step 2 is skipped; 0 more"):
        poisoned(tmp_path, (1,), skip_nonfinite_steps=1, max_steps=4, **saved).train()
    resumed = poisoned(tmp_path, (3,), skip_nonfinite_steps=1, max_steps=4, **saved)
    with pytest.raises(NonFiniteLossError, match="after 3 steps"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.progress.nonfinite_steps == 1


def test_a_loss_scaler_leaves_a_skipped_step_out():
    model = make_model()
    before = snapshot(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.ones(()))
    skip_step(model, scaler)
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot(model).items())
    assert (scaler.get_scale(), len(optimizer.state)) == (4.0, 0)


def test_parameters_and_their_state_are_put_back_bit_for_bit():
    several = [torch.nn.Parameter(torch.randn(3)) for _ in range(2)]
    optimizer = torch.optim.AdamW(several, lr=0.1)

    def step(parameters):
        for own in parameters:
            own.grad = torch.randn(3)
        optimizer.step()
        optimizer.zero_grad()

    step(several[:1])
    before, states = (
        [own.detach().clone() for own in several],
        copy.deepcopy(optimizer.state_dict()["state"]),
    )
    snapshot_before = AdapterSnapshot(several, optimizer)
    step(several)
    snapshot_before.restore()
    assert all(torch.equal(own, old) for own, old in zip(several, before, strict=True))
    assert optimizer.state_dict()["state"].keys() == states.keys() == {0}
    assert all(
        torch.equal(value, states[0][name])
        for name, value in optimizer.state_dict()["state"][0].items()
    )
