"""The outer step compares itself with the exact gradient, and falls back where it is wrong."""

from __future__ import annotations

import warnings

import pytest
import torch

from hf_meta_adapters.meta import MetaOptions, meta_options
from hf_meta_adapters.training._self_check import SelfCheck
from tests.training import make_model, make_trainer, snapshot

FALLBACK = "ignore:The meta-gradient has drifted from the exact one:UserWarning"
FAR = {"inner_learning_rate": 30.0, "max_steps": 5, "fidelity_check_steps": 2}
"""A virtual step so long that a shared look-ahead points elsewhere."""


def logged(trainer, name="meta_fidelity"):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_the_cosine_is_logged_every_so_many_steps(tmp_path):
    trainer = make_trainer(tmp_path, make_model(), max_steps=5, fidelity_check_steps=2)
    trainer.train()
    assert len(logged(trainer)) == 2
    assert all(value > 0.9 for value in logged(trainer))
    assert trainer._outer_step.check.level == 0


@pytest.mark.parametrize(
    "given", [{"fidelity_check_steps": 0}, {"preset": "paper"}, {"meta_gradient": "first_order"}]
)
def test_nothing_is_compared_unless_it_makes_sense(tmp_path, given):
    trainer = make_trainer(
        tmp_path, make_model(), max_steps=3, **{"fidelity_check_steps": 1, **given}
    )
    trainer.train()
    assert logged(trainer) == []


def test_comparing_leaves_the_run_alone(tmp_path):
    ends = []
    for every in (0, 1):
        model = make_model(dropout=0.3)
        make_trainer(
            tmp_path, model, max_steps=4, fidelity_check_steps=every, min_fidelity=-1.0
        ).train()
        ends.append(snapshot(model))
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_a_setting_that_points_elsewhere_is_replaced(tmp_path):
    trainer = make_trainer(tmp_path, make_model(), **FAR)
    with pytest.warns(
        UserWarning, match="The meta-gradient has drifted from the exact one"
    ) as caught:
        trainer.train()
    message = str(next(w.message for w in caught if "has drifted" in str(w.message)))
    assert (
        'with `meta_gradient="finite_difference", lookahead="shared"`, under `min_fidelity=0.9`'
        in message
    )
    assert (
        'From now on the run uses `meta_gradient="finite_difference", lookahead="per_language"`'
        in message
    )
    first, second = logged(trainer)
    assert first < 0.9 < second  # it is as good as it was expected to be
    assert trainer._outer_step.check.level == 1


@pytest.mark.filterwarnings(FALLBACK)
def test_a_resumed_run_goes_on_with_the_setting_it_fell_back_to(tmp_path):
    given = {**FAR, "save_strategy": "steps", "save_steps": 4}
    whole = make_model()
    make_trainer(tmp_path / "whole", whole, **given).train()
    again = make_model()
    trainer = make_trainer(tmp_path / "whole", again, **given)
    trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert trainer._outer_step.check.level == 1
    assert all(
        torch.equal(tensor, snapshot(again)[name]) for name, tensor in snapshot(whole).items()
    )


def check_with(options, cosines, monkeypatch):
    found = iter(cosines)
    monkeypatch.setattr(
        "hf_meta_adapters.training._self_check.meta_fidelity",
        lambda *_, **__: torch.tensor(next(found)),
    )
    check, model = SelfCheck(options, every=1, bound=0.9), make_model()
    batch = {"input_ids": torch.ones(9, 2)}
    batches = {role: {key: [batch] for key in model.languages} for role in ("train", "meta")}
    settings = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(1, len(cosines) + 1):
            check(model, batches, step)
            settings.append(check.options)
    return settings


def test_each_fall_is_to_a_safer_setting_down_to_the_exact_one(monkeypatch):
    asked = meta_options("fast", max_indirect_ratio=2.0)
    good, drawn, exact, still = check_with(asked, [0.95, 0.5, 0.1, 0.1], monkeypatch)
    assert good == asked
    assert drawn == MetaOptions(
        "finite_difference", "per_language", meta_languages_per_step=2, max_indirect_ratio=2.0
    )
    assert (
        exact
        == still
        == MetaOptions(
            "exact", "per_language", finite_difference_scheme="one_sided", max_indirect_ratio=2.0
        )
    )


def test_a_setting_is_not_replaced_by_itself(monkeypatch):
    asked = MetaOptions("finite_difference", "per_language")
    assert check_with(asked, [0.5], monkeypatch) == [MetaOptions("exact", "per_language")]


def test_rows_without_labels_say_nothing(monkeypatch):
    asked = MetaOptions()
    assert check_with(asked, [float("nan")], monkeypatch) == [asked]


class Once(torch.autograd.Function):
    """An operation without a second derivative, as fused kernels are."""

    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return slope


def test_a_model_without_a_second_derivative_is_left_alone(tmp_path):
    model = make_model()
    model.base_model.get_input_embeddings().register_forward_hook(
        lambda _, __, output: Once.apply(output)
    )
    trainer = make_trainer(tmp_path, model, max_steps=4, fidelity_check_steps=1)
    with pytest.warns(
        UserWarning, match="second derivative. Found one without: .* The run continues without"
    ) as caught:
        trainer.train()
    assert len([w for w in caught if "cannot compare itself" in str(w.message)]) == 1
    assert logged(trainer) == []


def test_a_few_rows_of_a_few_languages_are_compared(monkeypatch):
    seen = []

    def record(model, train, meta, **_):
        seen.append({key: len(batch["input_ids"]) for key, batch in train.items()})
        return torch.tensor(1.0)

    monkeypatch.setattr("hf_meta_adapters.training._self_check.meta_fidelity", record)
    model = make_model(languages=["a1", "a2", "a3", "a4", "a5", "a6"])
    batches = {
        role: {key: [{"input_ids": torch.ones(9, 2)}] for key in model.languages}
        for role in ("train", "meta")
    }
    SelfCheck(MetaOptions(), every=3, bound=0.9)(model, batches, 3)
    assert seen == [{"a1": 4, "a2": 4, "a3": 4, "a4": 4}]
