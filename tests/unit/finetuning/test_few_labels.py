"""The protocols for few labels: what each one trains, on which rows, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_meta_adapters.errors import ConfigurationError, DataError, LanguageError
from hf_meta_adapters.evaluation import POS, LanguageScores, evaluate_languages
from hf_meta_adapters.finetuning import (
    FinetuningSettings,
    _experiment,
    few_shot,
    finetune,
    joint_few_shot,
    meta_few_shot,
    projected_few_shot,
    within_language,
    zero_shot,
)
from hf_meta_adapters.finetuning._task_trainer import TaskTrainer
from hf_meta_adapters.finetuning.shots import draw_shots, halves
from tests.unit.finetuning.family import (
    QUICK,
    kept,
    labelled,
    maker,
    owners,
    saved_family,
    sentences,
    word_tokenizer,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::hf_meta_adapters.evaluation.ConstantPredictionWarning"),
    pytest.mark.filterwarnings("ignore::hf_meta_adapters.evaluation.MiswiringWarning"),
]
TRAIN = labelled("train", en=12, sw=9, hi=7)
TEST = labelled("test", en=3, sw=3, hi=3, te=3)
ONE_MODEL = (joint_few_shot, meta_few_shot, projected_few_shot)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_family(tmp_path_factory.mktemp("family"))


def run(
    protocol: Callable[..., LanguageScores], make: Any, settings: Any = QUICK, **given: Any
) -> LanguageScores:
    train, test = given.pop("train", TRAIN), given.pop("test", TEST)
    return protocol(make, POS(), train, test, word_tokenizer(), settings, **given)


def never() -> Any:
    raise AssertionError("A model was made before everything was checked.")


def trained(
    protocol: Callable[..., LanguageScores], family: Path, **given: Any
) -> tuple[set[str], dict[str, Tensor]]:
    """Whose parameters a protocol with one model has moved, and all parameters afterwards."""
    made: list[Any] = []
    make = maker(family)
    run(protocol, kept(made, make), **given)
    before = dict(make().named_parameters())
    after = {name: value.detach() for name, value in made[0].named_parameters()}
    moved = [name for name, value in after.items() if not torch.equal(value, before[name])]
    return owners(made[0], moved), after


@pytest.mark.parametrize(
    ("protocol", "given", "moved"),
    [
        (joint_few_shot, {}, {"en", "sw", "hi"}),
        (meta_few_shot, {}, {"en", "sw", "hi"}),
        # Without the indirect part, nothing says how the source's φ should be.
        (meta_few_shot, {"meta_gradient": "first_order"}, {"sw", "hi"}),
        (meta_few_shot, {"target_role": "split"}, {"en", "sw", "hi"}),
        (meta_few_shot, {"lookahead": "next", "indirect_ratio": 1.0}, {"en", "sw", "hi"}),
        (meta_few_shot, {"meta_gradient": "exact", "lookahead": "per_language"}, None),
        (meta_few_shot, {"preset": "fast", "adapter_update": "meta+train"}, None),
        (projected_few_shot, {"shared_update_groups": "layer"}, {"en", "sw", "hi"}),
    ],
)
def test_head_and_body_and_these_adapters_are_trained(
    protocol: Any, given: dict[str, Any], moved: set[str] | None, family: Path
) -> None:
    found, _ = trained(protocol, family, shots=4, **given)
    assert found == {"head", "body"} | (moved or {"en", "sw", "hi"})


def test_theta_takes_the_step_of_the_source_alone(family: Path) -> None:
    """The few labels act on θ through the φ only: in the first step, not at all."""
    # One step, and no clipping: the norm that it clips is that of θ and φ together.
    given = {"max_steps": 1, "max_grad_norm": 0.0}
    _, source = trained(zero_shot, family, test={"en": TEST["en"]}, **given)
    _, meta = trained(meta_few_shot, family, shots=4, **given)
    _, joint = trained(joint_few_shot, family, shots=4, **given)
    theta = list(maker(family)().shared_parameters())
    assert theta
    assert all(torch.equal(source[name], meta[name]) for name in theta)
    assert not all(torch.equal(source[name], joint[name]) for name in theta)


def test_joint_is_the_training_of_all_that_were_drawn(family: Path) -> None:
    """The record says which rows: fine-tuning on them by hand gives the same weights."""
    made: list[Any] = []
    scores = run(joint_few_shot, kept(made, maker(family)), shots=3)
    drawn = scores.details["drawn"]["train"]
    rows = {key: [TRAIN[key][number] for number in drawn[key]] for key in drawn}
    by_hand = finetune(maker(family)(), POS(), {"en": TRAIN["en"], **rows}, word_tokenizer(), QUICK)
    assert {key: len(set(numbers)) for key, numbers in drawn.items()} == {"sw": 3, "hi": 3}
    for name, value in by_hand.named_parameters():
        assert torch.equal(value, dict(made[0].named_parameters())[name])


def test_scores_take_the_batches_that_are_given(
    family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def watch(model: Any, task: Any, data: Any, *, batch_size: int = 0, **other: Any) -> Any:
        sizes.append(batch_size)
        return evaluate_languages(model, task, data, batch_size=batch_size or 32, **other)

    monkeypatch.setattr(_experiment, "evaluate_languages", watch)
    for given in ({}, {"per_device_eval_batch_size": 256}):
        run(joint_few_shot, maker(family), shots=2, max_steps=1, **given)
    assert sizes == [0, 32, 0, 256]  # after the check of a few training rows


def losses(model: Any, language: str, rows: Any) -> Tensor:
    """The mean cross-entropy over words, by hand."""
    tokenizer, task, total = word_tokenizer(), POS(), []
    for row in task.features(rows, tokenizer, language=language):
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        logits = model(language=language, input_ids=ids).logits[0]
        counted = labels != -100
        total.append(
            torch.nn.functional.cross_entropy(logits[counted], labels[counted], reduction="none")
        )
    return torch.cat(total).mean()


def test_a_projected_step_by_hand(family: Path) -> None:
    """One step of SGD with all rows in one batch: θ − η (g − min(⟨g, v⟩, 0) / ‖v‖² v)."""
    # One part of speech here, and another one there: the languages want opposite things.
    train = {"en": sentences("one way", 4), "sw": sentences("the other", 4)}
    for key, tag in (("en", "NOUN"), ("sw", "VERB")):
        train[key] = [{**row, "tags": [tag] * len(row["tags"])} for row in train[key]]
    rates = {"learning_rate": 0.1, "optim": "sgd", "max_grad_norm": 0.0, "weight_decay": 0.0}
    given = {"train": train, "shots": 4, "max_steps": 1, "inner_learning_rate": 0.05}
    made: list[Any] = []
    run(projected_few_shot, kept(made, maker(family)), **given, **rates)

    model = maker(family)().train()
    theta = model.shared_parameters()
    start = {name: value.detach().clone() for name, value in theta.items()}
    g = torch.autograd.grad(
        losses(model, "en", train["en"]), list(theta.values()), allow_unused=True
    )
    with torch.no_grad():
        for value, gradient in zip(theta.values(), g, strict=True):
            value -= 0.05 * (0 if gradient is None else gradient)
    v = torch.autograd.grad(
        losses(model, "sw", train["sw"]), list(theta.values()), allow_unused=True
    )

    pairs = [(a, b) for a, b in zip(g, v, strict=True) if a is not None and b is not None]
    inner = sum((a * b).sum() for a, b in pairs)
    norm = sum((b * b).sum() for _, b in pairs)
    assert inner < 0, "The rows do not oppose one another: the test would show nothing."
    found = dict(made[0].named_parameters())
    for (name, value), a, b in zip(start.items(), g, v, strict=True):
        if a is not None:
            expected = value - 0.1 * (a - inner / norm * b)
            torch.testing.assert_close(found[name].detach(), expected, rtol=1e-4, atol=1e-6)


def test_the_second_stage_starts_from_the_first(family: Path) -> None:
    """Two stages; one model for each language, none of which knows the labels of another."""
    made: list[Any] = []
    scores = run(few_shot, kept(made, maker(family)), shots=4)
    assert set(scores.details["stages"]) == {"en", "sw", "hi"}
    assert len(made) == 1
    assert scores.details["drawn"]["train"] == draw_shots(TRAIN, ["sw", "hi"], 4, seed=0)
    # of te there are no labels: scored by the zero-shot model
    assert scores["te"] == run(zero_shot, maker(family))["te"]
    assert scores.source_language is None


def test_the_draw_is_reproducible_and_grows_with_k() -> None:
    few, many = (draw_shots(TRAIN, ["sw", "hi"], k, seed=3) for k in (3, 7))
    assert all(many[key][:3] == few[key] for key in few)
    assert all(len(set(many[key])) == 7 for key in many)
    assert draw_shots(TRAIN, ["hi"], 7, seed=3)["hi"] == many["hi"]
    assert draw_shots(TRAIN, ["sw"], 7, seed=4)["sw"] != many["sw"]
    firsts = {draw_shots(TRAIN, ["sw"], 1, seed=seed)["sw"][0] for seed in range(200)}
    assert firsts == set(range(9))


def test_equal_texts_get_one_role() -> None:
    twice = sentences("a", 3) * 2
    for row in twice[3:]:  # the same words under other tags are the same text
        row = {**row, "tags": row["tags"][::-1]}
    for seed in range(5):
        drawn = draw_shots({"sw": twice}, ["sw"], 6, seed=seed)["sw"]
        train, meta = halves(twice, drawn, POS(), word_tokenizer(), language="sw")
        assert sorted(train + meta) == list(range(6))
        assert {number % 3 for number in train}.isdisjoint(number % 3 for number in meta)
        assert train
        assert meta
    with pytest.raises(DataError, match="at least two different texts"):
        halves(twice, [0, 3], POS(), word_tokenizer(), language="sw")


def test_halves_are_halves() -> None:
    rows = sentences("b", 9)
    train, meta = halves(rows, [5, 1, 8, 0, 3], POS(), word_tokenizer(), language="sw")
    assert (len(train), len(meta)) == (3, 2)
    assert sorted(train + meta) == [0, 1, 3, 5, 8]


def test_a_split_is_recorded_by_role(family: Path) -> None:
    scores = run(meta_few_shot, maker(family), shots=5, target_role="split")
    drawn = scores.details["drawn"]
    assert {role: len(drawn[role]["sw"]) for role in drawn} == {"train": 3, "meta": 2}
    everything = draw_shots(TRAIN, ["sw"], 5, seed=0)["sw"]
    assert sorted(drawn["train"]["sw"] + drawn["meta"]["sw"]) == sorted(everything)


@pytest.mark.parametrize("protocol", [meta_few_shot, projected_few_shot])
def test_in_each_step_a_label_is_for_one_of_both(
    protocol: Any, family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All labels of a target train the head sooner or later, and the step of θ sees its own."""
    seen: list[Any] = []
    inner = TaskTrainer.training_step

    def watched(self: Any, model: Any, inputs: Any, *rest: Any) -> Tensor:
        seen.append(inputs)
        return inner(self, model, inputs, *rest)

    monkeypatch.setattr(TaskTrainer, "training_step", watched)
    made: list[Any] = []
    settings = replace(QUICK, batch_size=2, max_steps=8)
    scores = run(protocol, kept(made, maker(family)), settings, shots=5, target_role="both")
    drawn = scores.details["drawn"]
    assert drawn["train"] == drawn["meta"]
    assert len(drawn["train"]["sw"]) == 5

    roles: dict[str, set[tuple[int, ...]]] = {"train": set(), "meta": set()}
    for inputs in seen:
        assert set(inputs["train"]) == {"en", "sw", "hi"}
        assert set(inputs["meta"]) == {"sw", "hi"}
        step = {
            role: {tuple(row.tolist()) for row in inputs[role]["sw"]["input_ids"]} for role in roles
        }
        assert not step["train"] & step["meta"]
        assert {role: len(found) for role, found in step.items()} == {"train": 2, "meta": 2}
        roles = {role: roles[role] | step[role] for role in roles}
    assert len(roles["train"]) == len(roles["meta"]) == 5
    before = dict(maker(family)().named_parameters())
    moved = [n for n, p in made[0].named_parameters() if not torch.equal(p.detach(), before[n])]
    assert owners(made[0], moved) == {"head", "body", "en", "sw", "hi"}


def test_languages_without_labels_are_named(family: Path, caplog: pytest.LogCaptureFixture) -> None:
    scores = run(joint_few_shot, maker(family), shots=2)
    assert scores.without_labels == ("te",)
    assert "te (no labels)" in scores.to_markdown()
    assert scores.to_dict()["without_labels"] == ["te"]
    assert "No labels to train on in te" in caplog.text
    json.dumps(scores.to_dict())


@pytest.mark.parametrize("protocol", [few_shot, *ONE_MODEL])
def test_more_labels_than_there_are(protocol: Any) -> None:
    with pytest.raises(DataError, match=r"at least `shots`.*, 8\. Found \{'hi': 7\}.*`shots=7`"):
        run(protocol, never, shots=8)
    with pytest.raises(ConfigurationError, match=r"`shots` must be a whole number.*Found 0"):
        run(protocol, never, shots=0)
    with pytest.raises(DataError, match="for the source language 'en' alone"):
        run(protocol, never, train={"en": TRAIN["en"]})
    with pytest.raises(LanguageError, match=r"`train`: \['sw'\]\. Found 'en'"):
        run(protocol, never, train={"sw": TRAIN["sw"]})


REFUSED = [
    (meta_few_shot, {"adapter_update": "train"}, '"meta" or "meta\\+train"'),
    (meta_few_shot, {"meta_gradient": "first_order", "indirect_ratio": 1.0}, "`indirect_ratio`"),
    (meta_few_shot, {"meta_languages": {"sw": 0.0, "hi": 0.0}}, "not all 0"),
    (meta_few_shot, {"meta_languages": ["sw", "te"]}, r"\['sw', 'hi'\].*Found \['sw', 'te'\]"),
    (meta_few_shot, {"meta_languages": ["sw"]}, r"\['sw', 'hi'\].*Found \['sw'\]"),
    (meta_few_shot, {"meta_languages": "others"}, "Found 'others'"),
    (meta_few_shot, {"target_role": "half"}, "one of .*Found 'half'"),
    (meta_few_shot, {"target_role": "both"}, "Found 4 and `per_device_train_batch_size=4`"),
    (meta_few_shot, {"target_role": "both", "lookahead": "next"}, "Found 'both' with"),
    (meta_few_shot, {"target_role": "train"}, 'goes with `lookahead="next"`'),
    (meta_few_shot, {"target_role": "meta", "lookahead": "next"}, "Found 'meta' with"),
    (meta_few_shot, {"lookahead": "next", "meta_languages": ["sw", "hi"]}, "of all languages"),
    (projected_few_shot, {"shared_update": "mean"}, "Use `meta_few_shot`"),
    (projected_few_shot, {"lookahead": "next"}, "validation gradient v"),
    (projected_few_shot, {"adapter_update": "train"}, "`shared_update`, which would have no"),
    (joint_few_shot, {"adapter_update": "train", "lookahead": "next"}, "would have no effect"),
    (joint_few_shot, {"push_to_hub": True}, "publishes checkpoints"),
    (joint_few_shot, {"resume_from_checkpoint": "c"}, "starts anew every time"),
    (joint_few_shot, {"metric_for_best_model": "eval_loss"}, "a loss, which is not computed"),
    (joint_few_shot, {"learning_rate": -1.0}, "`learning_rate` must be"),
    (zero_shot, {"meta_batch_size": 4, "adapter_update": "train"}, "`meta_batch_size`"),
    (within_language, {"train": {"en": TRAIN["en"]}}, r"`train`: \['en'\]\. Found 'sw'"),
]


@pytest.mark.parametrize(("protocol", "given", "message"), REFUSED)
def test_what_cannot_work_is_refused_before_a_model_is_made(
    protocol: Any, given: dict[str, Any], message: str
) -> None:
    shots = {} if protocol in (zero_shot, within_language) else {"shots": 4}
    with pytest.raises((ConfigurationError, DataError, LanguageError), match=message):
        run(protocol, never, **{**shots, **given})


@pytest.mark.parametrize("protocol", [meta_few_shot, projected_few_shot])
@pytest.mark.parametrize("train", ["shared", "head"])
def test_frozen_adapters_have_no_meta_gradient(protocol: Any, train: str, family: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Found none of \['en', 'sw', 'hi'\]"):
        run(protocol, maker(family, train=train), shots=2)


def test_a_language_without_an_adapter(family: Path) -> None:
    with pytest.raises(LanguageError, match="Found 'fr'"):
        run(meta_few_shot, maker(family), shots=2, train={**TRAIN, "fr": TRAIN["sw"]})
    with pytest.raises(LanguageError, match="Found 'fr'"):
        run(zero_shot, maker(family), test={"fr": TEST["sw"]})


def test_meta_rows_are_no_training_rows(family: Path) -> None:
    rows = {"en": TRAIN["en"], "sw": TRAIN["sw"]}
    given: dict[str, Any] = {"meta_languages": ["sw"]}
    with pytest.raises(DataError, match="9 rows of the meta data of 'sw' that have another role"):
        finetune(
            maker(family)(),
            POS(),
            rows,
            word_tokenizer(),
            QUICK,
            meta_datasets={"sw": TRAIN["sw"]},
            **given,
        )
    with pytest.raises(DataError, match=r"Found none of \['hi'\] in `meta_dataset`"):
        finetune(
            maker(family)(),
            POS(),
            {"en": TRAIN["en"]},
            word_tokenizer(),
            QUICK,
            meta_datasets={"sw": TRAIN["sw"]},
            meta_languages=["sw", "hi"],
        )


def test_every_argument_of_the_trainer_may_be_given_twice() -> None:
    """What was a duplicate keyword: the argument wins over `training`, and that over the rest."""
    settings = FinetuningSettings(
        learning_rate=1.0, seed=1, training={"learning_rate": 2.0, "adapter_update": "train"}
    )
    assert settings.given()["learning_rate"] == 2.0
    changed = settings.with_training(learning_rate=3.0, adapter_update="meta", max_steps=9)
    assert changed.given() == {
        "learning_rate": 3.0,
        "adapter_update": "meta",
        "max_steps": 9,
        "num_train_epochs": 3.0,
        "per_device_train_batch_size": 32,
        "seed": 1,
    }
