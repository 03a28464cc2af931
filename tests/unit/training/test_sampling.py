"""The sampling of the Trainer: what a run reads, and what is refused before it begins."""

from __future__ import annotations

import pytest

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.study.methods import examples_seen
from tests.training import make_model, make_trainer, rows, texts

TRAIN = {"te": rows(1, 40), "da": rows(2, 4), "zh-Hant": rows(3, 11)}
UNIMAX = {"sampling": "unimax", "sampling_max_epochs": 2, "languages_per_step": 1}
COOLDOWN = {"sampling": "cooldown", "sampling_alpha": 0.0, "languages_per_step": 1}


# 15 batches of 2 rows: 2 · 4 / 2 = 4 of da, the other 11 shared out equally
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (UNIMAX, {"te": 6, "da": 4, "zh-Hant": 5}),
        # meta rows are training rows: a pass over 4 rows is 1 step, over 11 rows 2 steps
        (
            {**UNIMAX, "meta_dataset": "train", "sampling_max_epochs": 3},
            {"te": 6, "da": 3, "zh-Hant": 6},
        ),
    ],
)
def test_a_run_reads_what_unimax_says(tmp_path, given, expected):
    trainer = make_trainer(tmp_path, make_model(), train_dataset=TRAIN, max_steps=15, **given)
    trainer.train()
    seen = trainer.progress.examples_seen["train"]
    assert seen == {key: 2 * count for key, count in expected.items()}
    if "meta_dataset" not in given:
        sizes = {key: len(several) for key, several in TRAIN.items()}
        assert examples_seen(sizes, 15, trainer.args) == seen


def test_a_run_by_epochs_cools_down_over_all_of_them(tmp_path):
    given = {**COOLDOWN, "max_steps": -1, "num_train_epochs": 3, "train_dataset": TRAIN}
    trainer = make_trainer(tmp_path, make_model(), **given)
    trainer.train()
    first, last = ([next(iter(one["train"])) for one in trainer.seen[part]] for part in HALVES)
    assert len(first) + len(last) == trainer.state.max_steps == 84
    assert first.count("da") > last.count("da") > 0
    assert last.count("te") > first.count("te")


HALVES = (slice(0, 42), slice(42, None))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({**UNIMAX, "max_steps": 100}, r"Found text for 55 batches, .* in a run of 100: 100 steps"),
        ({**UNIMAX, "languages_per_step": 3}, "Found all 3 languages in every step"),
        ({**UNIMAX, "sampling_max_epochs": 0.3}, r"than a single step then reads: {'da': 4}"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_when_the_trainer_is_made(
    tmp_path, given, message
):
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(tmp_path, make_model(), train_dataset=TRAIN, **given)


def test_without_a_plan_all_languages_may_be_in_every_step(tmp_path):
    make_trainer(tmp_path, make_model(), train_dataset=texts(1), languages_per_step=3).train()
