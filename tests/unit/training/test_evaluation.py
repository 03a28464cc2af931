"""What `evaluate` and `predict` take, give, show and refuse."""

from __future__ import annotations

import datasets
import pytest
from transformers import EarlyStoppingCallback
from transformers.trainer_callback import ProgressCallback

from hf_meta_adapters.errors import CheckpointError, ConfigurationError, DataError, LanguageError
from tests.training import LANGUAGES, make_model, make_trainer, masking, rows, texts

SETS = {"dev": texts(3), "test": texts(4, ["da", "te"], count=5)}
PLAIN = {key: [{"input_ids": [5, 6, 7]}] * 4 for key in LANGUAGES}


def trainer_of(folder, **given):
    return make_trainer(folder, make_model(), **given)


def holds_scores(line):
    return any(name.startswith("eval_") and name.endswith("_da_loss") for name in line)


def losses(metrics):
    return {name: value for name, value in metrics.items() if name.endswith("loss")}


def test_sets_come_after_the_prefix(tmp_path):
    trainer = trainer_of(tmp_path)
    found = losses(trainer.evaluate(SETS))
    for name, of_set in SETS.items():
        alone = losses(trainer.evaluate(of_set, metric_key_prefix="x"))
        assert {key: found.pop(key.replace("x", f"eval_{name}")) for key in alone} == alone
    assert not found


def test_the_best_model_may_be_that_of_one_language_of_one_set(tmp_path):
    trainer = trainer_of(
        tmp_path,
        eval_dataset=SETS,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        max_steps=3,
        load_best_model_at_end=True,
        metric_for_best_model="test_da_loss",
        callbacks=[EarlyStoppingCallback(early_stopping_patience=5)],
    )
    trainer.train()
    lines = [line for line in trainer.state.log_history if "eval_test_da_loss" in line]
    found = [line["eval_test_da_loss"] for line in lines]
    assert len(found) == 3
    assert trainer.state.best_metric == min(found)
    assert trainer.evaluate("test")["eval_da_loss"] == pytest.approx(min(found), rel=1e-6)

    # the best score so far is one of these data
    others = {**SETS, "test": texts(5)}
    trainer = trainer_of(tmp_path, eval_dataset=others, metric_for_best_model="test_da_loss")
    with pytest.raises(CheckpointError, match="eval data of 'test/da'"):
        trainer.train(resume_from_checkpoint=True)


def test_sets_must_not_share_rows_with_training(tmp_path):
    train = texts(1)
    with pytest.raises(DataError, match="8 rows of the selection data of 'te' that have another"):
        trainer_of(tmp_path, train_dataset=train, eval_dataset={"dev": texts(3), "test": train})


def test_a_text_stands_for_a_part_of_the_own_data(tmp_path):
    trainer = trainer_of(tmp_path, eval_dataset=texts(3))
    everything = losses(trainer.evaluate())
    of_one = losses(trainer.evaluate("da"))
    assert set(of_one) == {"eval_da_loss", "eval_loss"}
    assert of_one["eval_loss"] == of_one["eval_da_loss"] == everything["eval_da_loss"]
    with pytest.raises(DataError, match=r"\['te', 'da', 'zh-Hant'\]\. Found 'sw'"):
        trainer.evaluate("sw")


def test_speed_is_that_of_all_languages_together(tmp_path):
    selection = {"te": rows(1, 3), "da": rows(2, 4), "zh-Hant": rows(3, 5)}
    trainer = trainer_of(tmp_path, eval_dataset=selection, per_device_eval_batch_size=2)
    found = trainer.evaluate()
    speeds = [found[f"eval_{unit}_per_second"] for unit in ("samples", "steps")]
    assert speeds[0] / speeds[1] == pytest.approx(12 / 7, rel=1e-3)
    assert speeds[0] * found["eval_runtime"] == pytest.approx(12, rel=0.05)
    assert trainer.state.log_history[-1]["eval_runtime"] == found["eval_runtime"]

    # one number for the model, where transformers has one for each of its data sets
    preparation = [name for name in found if name.endswith("model_preparation_time")]
    assert preparation in ([], ["eval_model_preparation_time"])


def test_one_bar_for_all_languages_names_the_one_at_hand(tmp_path, capsys):
    trainer = trainer_of(
        tmp_path,
        eval_dataset=texts(3),
        disable_tqdm=False,
        per_device_eval_batch_size=3,
        eval_strategy="steps",
        eval_steps=1,
        max_steps=1,
    )
    trainer.train()
    trainer.evaluate()
    shown = capsys.readouterr().err
    assert shown.count(" 0/9 ") == 2 + 2  # with and without the first name, in each evaluation
    for place, key in enumerate(LANGUAGES):
        assert f"{key}:" in shown
        assert f"{3 * place}/9" in shown
    assert "zh-Hant: 100%" in shown
    assert "/3 " not in shown
    bars = [c for c in trainer.callback_handler.callbacks if isinstance(c, ProgressCallback)]
    assert [callback.prediction_bar for callback in bars] == [None]

    trainer.predict(texts(4))
    shown = capsys.readouterr().err
    assert all(f"{key}: 100%" in shown for key in LANGUAGES)


def test_the_bar_of_a_notebook_is_that_of_all_languages(tmp_path, capsys):
    notebook = pytest.importorskip("transformers.utils.notebook")
    bars = []

    class Callback(notebook.NotebookProgressCallback):
        def on_evaluate(self, *args, **kwargs):
            bars.append((self.prediction_bar.value, self.prediction_bar.total))
            bars.append(self.prediction_bar.prefix)
            super().on_evaluate(*args, **kwargs)

    Callback.__name__ = "NotebookProgressCallback"
    given = {"eval_dataset": texts(3), "per_device_eval_batch_size": 3, "max_steps": 1}
    trainer = trainer_of(
        tmp_path, callbacks=[Callback], eval_strategy="steps", eval_steps=1, **given
    )
    trainer.evaluate()
    trainer.train()
    assert bars == 2 * [(9, 9), "zh-Hant"]


def test_a_stream_has_a_bar_without_an_end(tmp_path, capsys):
    streams = {
        key: datasets.Dataset.from_list(one).to_iterable_dataset() for key, one in texts(3).items()
    }
    trainer = trainer_of(tmp_path, eval_dataset=streams, disable_tqdm=False)
    assert trainer.evaluate()["eval_loss"] > 0
    assert "zh-Hant" in capsys.readouterr().err


def test_rows_without_labels_are_predicted_and_not_scored(tmp_path):
    trainer = trainer_of(tmp_path, compute_metrics=lambda prediction: {"rows": 1.0})
    found = trainer.predict(PLAIN)
    for key in LANGUAGES:
        assert found[key].predictions.shape[:2] == (4, 3)
        assert found[key].label_ids is None
        assert f"test_{key}_rows" not in found[key].metrics

    partly = {**texts(3), "da": PLAIN["da"]}
    with pytest.raises(DataError, match=r"must have labels\. Found none in the data of \['da'\]"):
        trainer.evaluate(partly)


@pytest.mark.parametrize(
    ("selection", "found"),
    [({**texts(3), "da": PLAIN["da"]}, r"\['da'\]"), ({"dev": PLAIN}, r"\['dev/te', 'dev/da',")],
)
def test_labels_are_looked_for_before_training(tmp_path, selection, found):
    given = {"eval_dataset": selection, "eval_strategy": "steps", "eval_steps": 1}
    with pytest.raises(DataError, match=f"Found none in `eval_dataset` of {found}"):
        trainer_of(tmp_path, **given)

    # a collator may make them
    trainer = trainer_of(tmp_path, **given, train_dataset=texts(1), data_collator=masking())
    trainer.train()
    assert [line["step"] for line in trainer.state.log_history if holds_scores(line)] == [1, 2]


REFUSED = {
    "one dataset": (rows(3), DataError, "must be a dict from language to data. Found a `list`"),
    "a table": (datasets.Dataset.from_list(rows(3)), DataError, "Found a `Dataset`"),
    "nothing": ({}, DataError, "Found an empty one"),
    "no rows": ({"te": [], "da": rows(3)}, DataError, r"must have rows\. Found none of \['te'\]"),
    "another language": (texts(3, ["sw"]), LanguageError, r"Found 'sw'\. Add it: `model.add_lang"),
    "splits": ({"te": {"test": rows(3)}}, DataError, r"\['te'\]` must be a dataset. Found the spl"),
}


@pytest.mark.parametrize("call", ["evaluate", "predict"])
@pytest.mark.parametrize("what", REFUSED)
def test_data_of_another_kind_are_refused_before_anything_is_scored(tmp_path, call, what):
    data, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        getattr(trainer_of(tmp_path), call)(data)


def test_sets_are_predicted_one_after_the_other(tmp_path):
    with pytest.raises(DataError, match=r"\['dev'\]` must be a dataset. Found a `dict` of .*zh-H"):
        trainer_of(tmp_path).predict(SETS)


def test_a_loader_is_that_of_one_language(tmp_path):
    trainer = trainer_of(tmp_path, eval_dataset=texts(3), per_device_eval_batch_size=3)
    assert [len(batch["labels"]) for batch in trainer.get_eval_dataloader("da")] == [3, 3, 2]
    assert len(trainer.get_test_dataloader(rows(5))) == 3

    for call, given in [
        (trainer.get_eval_dataloader, ()),
        (trainer.get_eval_dataloader, (texts(3),)),
        (trainer.get_test_dataloader, (texts(3),)),
    ]:
        with pytest.raises(DataError, match="must be given the data of one language"):
            call(*given)
    with pytest.raises(DataError, match="Found 'sw'"):
        trainer.get_eval_dataloader("sw")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"eval_accumulation_steps": 1}, ("ndarray", 8)),
        ({"eval_use_gather_object": True}, ("ndarray", 8)),
        ({"eval_do_concat_batches": False}, ("list", 3)),
        ({"prediction_loss_only": True}, None),
    ],
)
def test_metrics_are_given_predictions_as_asked_for(tmp_path, given, expected):
    seen = []

    def metric(prediction):
        seen.append((type(prediction.predictions).__name__, len(prediction.predictions)))
        return {"rows": 1.0}

    trainer = trainer_of(
        tmp_path,
        eval_dataset=texts(3),
        compute_metrics=metric,
        per_device_eval_batch_size=3,
        **given,
    )
    found = trainer.evaluate()
    assert seen == ([expected] * 3 if expected else [])
    assert ("eval_rows" in found) == bool(expected)


def test_logits_are_reduced_language_by_language(tmp_path):
    trainer = trainer_of(
        tmp_path,
        eval_dataset=texts(3),
        compute_metrics=lambda prediction: {"dimensions": prediction.predictions.ndim},
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
    )
    found = trainer.evaluate()
    assert [found[f"eval_{key}_dimensions"] for key in LANGUAGES] == [2, 2, 2]


def test_memory_is_measured_where_asked_for(tmp_path):
    pytest.importorskip("psutil")
    trainer = trainer_of(tmp_path, eval_dataset=texts(3), skip_memory_metrics=False)
    assert "eval_mem_cpu_alloc_delta" in trainer.evaluate()


@pytest.mark.parametrize(
    ("name", "given", "hint"),
    [
        ("sw_loss", {}, "Found 'sw_loss'"),
        ("accuracy", {}, "Another metric needs a `compute_metrics`"),
        ("da_los", {}, "Did you mean 'eval_da_loss'"),
        ("loss", {"eval_dataset": SETS}, "'eval_dev_loss', 'eval_dev_te_loss'"),
        (
            "accuracy",
            {"compute_metrics": dict, "prediction_loss_only": True},
            "`prediction_loss_only=False`",
        ),
    ],
)
def test_a_metric_that_will_never_come_is_refused_before_training(tmp_path, name, given, hint):
    with pytest.raises(ConfigurationError, match=f"`metric_for_best_model` must be .*{hint}"):
        trainer_of(tmp_path, **{"eval_dataset": texts(3), "metric_for_best_model": name, **given})


@pytest.mark.parametrize("name", ["loss", "eval_loss", "da_loss", "eval_da_loss", "eval_runtime"])
def test_a_metric_may_have_the_prefix_or_not(tmp_path, name):
    trainer_of(tmp_path, eval_dataset=texts(3), metric_for_best_model=name)


def test_a_metric_of_the_user_is_not_judged(tmp_path):
    trainer_of(
        tmp_path, eval_dataset=texts(3), metric_for_best_model="f1", compute_metrics=lambda _: {}
    )


def test_memory_is_not_pinned_for_a_device_that_is_not_there(tmp_path):
    trainer = trainer_of(tmp_path, use_cpu=False, eval_dataset=texts(3))
    is_cpu = trainer.args.device.type == "cpu"
    assert trainer.get_eval_dataloader("da").pin_memory == (not is_cpu)
    trainer.evaluate()  # without a warning of torch
