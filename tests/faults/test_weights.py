"""Weights and moments that stop being finite: one error, and the last good checkpoint stays."""

from __future__ import annotations

import re

import pytest
import torch

from hf_meta_adapters.errors import NonFiniteLossError
from hf_meta_adapters.training import _checkpoint_seal as seals
from tests.processes import outcome
from tests.training import LANGUAGES, Recorder, make_model, make_trainer, snapshot, texts

ONE = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1, "logging_steps": 100}


class Overflowing(torch.optim.SGD):
    """An optimizer of a user's own that makes something infinite in its third step."""

    where = "shared"
    model = None

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        self.taken = getattr(self, "taken", 0) + 1
        if self.taken != 3:
            return
        if self.where == "moment":
            parameter = next(iter(self.model.language_parameters("da").values()))
            self.state[parameter] = {"moment": torch.full_like(parameter, float("inf"))}
        elif self.where == "shared":
            next(iter(self.model.shared_parameters().values())).view(-1)[0] = float("nan")
        else:
            for parameter in self.model.language_parameters(self.where).values():
                parameter.view(-1)[-1] = float("-inf")


def overflowing(model, where, rate=1e-3):
    optimizer = Overflowing([p for p in model.parameters() if p.requires_grad], lr=rate)
    optimizer.where, optimizer.model = where, model
    return optimizer, None


NAMED = {
    "shared": r"in the shared weights \(\S+\)\. No",
    "te": r"in the adapter of 'te' \(\S+, \S+, \S+ and \d+ more\)\. No",
    "moment": r"in the optimizer's state of the adapter of 'da' \(\S+\)\. No",
}


@pytest.mark.parametrize("where", NAMED)
def test_no_checkpoint_is_written_of_them(tmp_path, where):
    """The update of step 3 is found before the checkpoint of step 4, or of a loss before it."""
    model = make_model()
    given = {**ONE, "save_steps": 1, "max_steps": 6}
    trainer = make_trainer(tmp_path, model, optimizers=overflowing(model, where), **given)
    with pytest.raises(NonFiniteLossError, match=f"after 3 steps {NAMED[where]}") as error:
        trainer.train()
    assert f"The last checkpoint is {tmp_path / 'checkpoint-2'}." in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2"}
    assert seals.read_seal(tmp_path / "checkpoint-2")["step"] == 2


WHEN = {
    "a log line": {"logging_steps": 3},
    "an evaluation": {"eval_strategy": "steps", "eval_steps": 3, "eval_dataset": texts(3)},
    "the end": {"max_steps": 3},
    "the end of the epochs": {"max_steps": -1, "num_train_epochs": 3, "train_dataset": "few"},
    "the next step": {},
    "the next step, which may be skipped": {"skip_nonfinite_steps": 3},
}


@pytest.mark.parametrize("when", WHEN)
def test_they_are_noticed_at(tmp_path, when):
    model = make_model()
    given = {**ONE, "save_strategy": "no", "max_steps": 6, **WHEN[when]}
    if "train_dataset" in given:
        given["train_dataset"] = texts(1, count=2)
    trainer = make_trainer(tmp_path, model, optimizers=overflowing(model, "shared"), **given)
    with pytest.raises(NonFiniteLossError, match=r"after 3 steps in the shared weights \("):
        trainer.train()
    assert trainer.state.global_step == 3


@pytest.mark.parametrize("given", [{}, {"share_adapter": True}, {"config": None}])
def test_an_overflow_in_the_optimizer_is_one(tmp_path, given):
    """The rate is allowed, and so are the gradients; their product is too large."""
    model = make_model(**given)
    rates = {"learning_rate": 3e38, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=3e38)
    trainer = make_trainer(
        tmp_path, model, optimizers=(optimizer, None), max_steps=2, **ONE, **rates
    )
    trainer.training_step = pushing(trainer)
    with pytest.raises(NonFiniteLossError, match=r"must stay finite\. Found NaN or inf"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def pushing(trainer):
    take = trainer.training_step

    def training_step(model, inputs, number=None):
        loss = take(model, inputs, number)
        for parameter in trainer.model.parameters():
            if parameter.grad is not None:
                parameter.grad = torch.full_like(parameter, -2.0)
        return loss

    return training_step


def test_large_weights_and_what_begins_at_infinity_are_none(tmp_path):
    """A sum of squares would overflow; a bound of one number may be infinite."""
    model = make_model(("te", "da"))
    optimizer = Overflowing([p for p in model.parameters() if p.requires_grad], lr=1e-9)
    trainer = make_trainer(tmp_path, model, optimizers=(optimizer, None), max_steps=1)
    trainer.train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1e30)
            optimizer.state[parameter] = {"best": torch.tensor(float("inf")), "step": 3}
    trainer.check_trained()


def test_good_weights_are_left_as_they_are(tmp_path):
    trainer = make_trainer(tmp_path, make_model(), max_steps=2)
    trainer.train()
    before = snapshot(trainer.model)
    trainer.check_trained()
    assert all(torch.equal(one, before[key]) for key, one in snapshot(trainer.model).items())


class OnOne(Recorder):
    """One of two processes has a weight that is not finite."""

    ill = False

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        if self.ill and self.state.global_step == 3:
            with torch.no_grad():
                next(iter(self._model.language_parameters("da").values())).view(-1)[0] = float(
                    "nan"
                )
        super()._maybe_log_save_evaluate(*args, **kwargs)


def train(rank, folder, ill):
    given = {**ONE, "logging_steps": 1, "max_steps": 6, "ddp_backend": "gloo", "ddp_timeout": 30}
    trainer = make_trainer(folder, make_model(LANGUAGES), kind=OnOne, **given)
    trainer.ill = ill == rank
    trainer.train()


@pytest.mark.distributed
@pytest.mark.parametrize("ill", [0, 1])
def test_both_processes_stop_with_the_same_error(tmp_path, ill):
    codes, errors = outcome(tmp_path, train, [(str(tmp_path / "run"), ill)] * 2)
    assert codes == [1, 1], errors
    assert errors[0] == errors[1]
    assert re.match(
        r"NonFiniteLossError: Weights must stay finite\. Found NaN or infinity after 3 steps in the"
        r" adapter of 'da' \(",
        errors[0],
    )
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoint-2"}
