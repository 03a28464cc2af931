"""Selection on a development set: by the score of the task, and with early stopping."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.evaluation import POS, evaluate_languages
from hf_meta_adapters.finetuning import (
    FinetuningArguments,
    FinetuningSettings,
    few_shot,
    finetune,
    joint_few_shot,
    zero_shot,
)
from hf_meta_adapters.finetuning._stage import Stage, train_stage
from tests.training import snapshot
from tests.unit.finetuning.family import (
    QUICK,
    kept,
    labelled,
    maker,
    saved_family,
    sentences,
    word_tokenizer,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::hf_meta_adapters.evaluation.ConstantPredictionWarning"),
    pytest.mark.filterwarnings("ignore::hf_meta_adapters.evaluation.MiswiringWarning"),
]
TRAIN = labelled("train", en=12, sw=6)
DEV = labelled("dev", en=8, sw=8)
TEST = labelled("test", en=3, sw=3, hi=3)
# With so high a rate the score jumps up and down, and the last step is seldom the best.
WILD = FinetuningSettings(learning_rate=0.3, max_steps=6, batch_size=4)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_family(tmp_path_factory.mktemp("family"))


def score(model: Any, rows: Any) -> float:
    scores = evaluate_languages(model, POS(), rows, processing_class=word_tokenizer())
    return scores.mean["accuracy"]


def test_the_model_of_the_best_score_is_kept(family: Path) -> None:
    settings = replace(WILD, early_stopping_patience=None)
    settings = settings.with_training(lr_scheduler_type="constant", warmup_steps=0)
    model = maker(family)()
    record = train_stage(model, POS(), Stage(TRAIN, None, DEV), word_tokenizer(), settings)

    # By hand: the score after each number of steps, from the same start.
    by_steps, weights = {}, {}
    for steps in range(1, 7):
        again, shorter = maker(family)(), settings.with_training(max_steps=steps)
        train_stage(again, POS(), Stage(TRAIN), word_tokenizer(), shorter)
        by_steps[steps], weights[steps] = score(again, DEV), snapshot(again)

    best = max(by_steps, key=lambda steps: by_steps[steps])
    assert (record.steps, record.best_step) == (6, best)
    assert 1 < best < 6, "The first or the last is the best: the test would show nothing."
    assert record.best_score == pytest.approx(by_steps[best])
    for name, value in snapshot(model).items():
        assert torch.equal(value, weights[best][name])


def test_training_stops_early(family: Path) -> None:
    """At a rate at which nothing changes, after the first score and `patience` more."""
    settings = FinetuningSettings(
        learning_rate=1e-7, max_steps=40, batch_size=4, early_stopping_patience=2
    )
    record = train_stage(
        maker(family)(), POS(), Stage(TRAIN, None, DEV), word_tokenizer(), settings
    )
    assert (record.best_step, record.steps) == (4, 12)


def test_each_stage_selects_on_the_languages_that_it_trains_on(family: Path) -> None:
    few = few_shot(
        maker(family),
        POS(),
        TRAIN,
        TEST,
        word_tokenizer(),
        QUICK,
        shots=4,
        eval_datasets={"sw": DEV["sw"]},
    )
    stages = few.details["stages"]
    assert stages["en"]["best_step"] is None
    assert stages["sw"]["best_step"] in (1, 2)

    # Zero-shot: labels of a target must not choose the model.
    none = zero_shot(
        maker(family), POS(), TRAIN, TEST, word_tokenizer(), QUICK, eval_datasets={"sw": DEV["sw"]}
    )
    assert none.details["stages"]["en"]["best_step"] is None

    made: list[Any] = []
    joint = joint_few_shot(
        kept(made, maker(family)),
        POS(),
        TRAIN,
        TEST,
        word_tokenizer(),
        WILD,
        shots=4,
        eval_datasets=DEV,
    )
    best = joint.details["stages"]["joint"]["best_score"]
    assert best == pytest.approx(score(made[0], DEV))


def test_nothing_is_evaluated_or_written_unless_it_is_asked_for(
    family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_meta_adapters.finetuning._task_trainer import TaskTrainer

    def never(*_: object, **__: object) -> None:
        raise AssertionError("Evaluated, or saved.")

    monkeypatch.setattr(TaskTrainer, "evaluate", never)
    monkeypatch.setattr(TaskTrainer, "_save_checkpoint", never)
    finetune(maker(family)(), POS(), TRAIN, word_tokenizer(), QUICK)


def test_selection_rows_are_no_training_rows(family: Path) -> None:
    with pytest.raises(DataError, match="of the selection data of 'en' that have another role"):
        finetune(
            maker(family)(),
            POS(),
            {"en": TRAIN["en"]},
            word_tokenizer(),
            QUICK,
            eval_datasets={"en": [*sentences("other", 2), TRAIN["en"][3]]},
        )


@pytest.mark.parametrize("patience", [0, 1.5])
def test_patience_is_a_number_of_evaluations(patience: Any) -> None:
    args = FinetuningArguments(model="m", data="d", early_stopping_patience=patience)
    with pytest.raises(ConfigurationError, match="`early_stopping_patience` must be a whole"):
        args.check()
