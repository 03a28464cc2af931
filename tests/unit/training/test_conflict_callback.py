"""Gradient conflict beside training: what is logged, where it goes, and that the run does not
notice.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_meta_adapters import GradientConflictCallback, gradient_conflict
from hf_meta_adapters.errors import ConfigurationError, DataError, LanguageError
from hf_meta_adapters.training._conflict_log import log_entries
from tests.tiny import tiny
from tests.training import (
    LANGUAGES,
    make_model,
    make_tokenizer,
    make_trainer,
    rows,
    snapshot,
    texts,
)

KEYS = ("en", "sw")
CELL = tiny("xlm-r")


def mixed(count: int = 12) -> list[dict[str, Any]]:
    """Rows of two languages by turns, each naming its own."""
    return [row | {"language": KEYS[number % 2]} for number, row in enumerate(rows(0, count))]


def probes(languages: tuple[str, ...] = KEYS, count: int = 2) -> dict[str, list[dict[str, Tensor]]]:
    return {key: [CELL.batch(10 * i + t) for t in range(count)] for i, key in enumerate(languages)}


class Popping(Trainer):
    """A Trainer whose batches carry a language that its model does not take."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        inputs.pop("language", None)
        return super().compute_loss(model, inputs, *args, **kwargs)


def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    names = [name for name in examples[0] if name != "language"]
    batch = {name: torch.tensor([example[name] for example in examples]) for name in names}
    return batch | (
        {"language": [example["language"] for example in examples]}
        if "language" in examples[0]
        else {}
    )


def plain(
    folder: Any,
    callbacks: list[Any],
    data: Any = None,
    collator: Any = collate,
    steps: int = 4,
    **given: Any,
) -> Trainer:
    """Another Trainer than ours, with dropout on."""
    torch.manual_seed(0)
    quiet = {
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_steps": 1,
    }
    args = TrainingArguments(
        **{
            "output_dir": str(folder),
            "max_steps": steps,
            "per_device_train_batch_size": 2,
            **quiet,
            **given,
        }
    )
    model = CELL.make(dropout=0.3).train()
    return Popping(
        model, args, train_dataset=data or mixed(), data_collator=collator, callbacks=callbacks
    )


class Listener(TrainerCallback):
    """The steps whose gradient conflict was logged."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "gradient_cosine_lowest" in logs:
            self.steps.append(state.global_step)


def logged(trainer: Trainer) -> list[dict[str, Any]]:
    return [entry for entry in trainer.state.log_history if "gradient_cosine_lowest" in entry]


class Masking:
    """A collator that draws masks, from the global random numbers or from its own generator."""

    def __init__(self, seed: int | None) -> None:
        self._collate = DataCollatorForLanguageModeling(
            make_tokenizer(), mlm_probability=0.5, seed=seed
        )

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        return self._collate(
            [{k: row[k] for k in ("input_ids", "attention_mask")} for row in examples]
        )


@pytest.mark.parametrize(
    "collator", [collate, Masking(None), Masking(7)], ids=["fixed", "global masks", "own masks"]
)
@pytest.mark.parametrize("given", [{}, {"batches": probes()}], ids=["drawn", "given"])
def test_another_trainer_runs_as_if_nothing_had_happened(tmp_path, collator, given):
    weights = []
    for callbacks in ([], [GradientConflictCallback(every=1, number_of_batches=2, **given)]):
        fresh = Masking(collator._collate.seed) if isinstance(collator, Masking) else collator
        trainer = plain(
            tmp_path,
            callbacks,
            collator=fresh,
            remove_unused_columns=False,
            gradient_accumulation_steps=2,
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        weights.append((snapshot(trainer.model), losses, torch.get_rng_state()))
    (before, losses, state), (after, seen, random) = weights
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert losses == seen
    assert len(losses) == 4
    assert torch.equal(state, random)
    assert sorted(callbacks[0].history) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("method", [{}, {"preset": "paper"}, {"adapter_update": "train"}], ids=str)
def test_our_trainer_runs_as_if_nothing_had_happened(tmp_path, method):
    weights = []
    for callbacks in ([], [GradientConflictCallback(every=2)]):
        torch.manual_seed(0)
        trainer = make_trainer(
            tmp_path,
            make_model(dropout=0.3).train(),
            max_steps=3,
            callbacks=list(callbacks),
            **method,
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        weights.append((snapshot(trainer.model), losses))
    (before, losses), (after, seen) = weights
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert losses == seen
    assert sorted(callbacks[0].history) == [0, 2, 3]
    assert callbacks[0].history[0].languages == LANGUAGES


def test_the_gradient_buffers_and_modes_are_left_alone(tmp_path):
    class Watching(GradientConflictCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            parameters = list(kwargs["model"].parameters())
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)
            modes = [module.training for module in kwargs["model"].modules()]
            super().on_step_end(args, state, control, **kwargs)
            assert all(torch.equal(p.grad, torch.ones_like(p)) for p in parameters)
            assert [module.training for module in kwargs["model"].modules()] == modes
            assert any(modes)

    callback = Watching(probes(), every=1)
    plain(tmp_path, [callback], steps=1).train()
    assert sorted(callback.history) == [0, 1]


def test_what_is_logged_is_what_gradient_conflict_finds(tmp_path):
    callback = GradientConflictCallback(probes(count=4), every=2, projection=None)
    trainer = plain(tmp_path, [], steps=2)
    trainer.add_callback(callback)
    trainer.train()
    entries = logged(trainer)
    assert [entry["step"] for entry in entries] == [0, 2]
    expected = gradient_conflict(trainer.model, probes(count=4), per_layer=True)
    torch.testing.assert_close(callback.history[2].matrix, expected.matrix)
    assert entries[1]["gradient_cosine_en_sw"] == pytest.approx(float(expected.matrix[0, 1]))
    assert entries[1]["gradient_cosine_sw_sw"] == pytest.approx(float(expected.matrix[1, 1]))
    assert entries[1]["gradient_cosine_within_languages"] == pytest.approx(
        float(expected.baseline.mean())
    )
    assert entries[1]["gradient_cosine_between_languages"] == pytest.approx(
        float(expected.matrix[0, 1])
    )
    worst = expected.most_conflicting(per_layer=True)
    assert entries[1]["most_conflicting"] == "en–sw"
    assert entries[1]["most_conflicting_layer"] == f"en–sw in {worst.layer}"
    assert json.dumps(trainer.state.log_history)
    assert callback.plot(tmp_path / "over_time.png").get_title()
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [
        1,
        2,
    ]  # none is lost


def test_reporters_hear_of_it_wherever_the_callback_stands(tmp_path):
    class Reporter(TrainerCallback):
        def __init__(self) -> None:
            self.heard: list[int] = []

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            if "gradient_cosine_lowest" in logs:
                self.heard.append(state.global_step)

    class Later(Reporter):
        pass

    first, last = Reporter(), Later()
    callback = GradientConflictCallback(probes(), every=1)
    trainer = plain(tmp_path, [first, callback, last], steps=1)
    callback.trainer = trainer
    trainer.train()
    assert first.heard == last.heard == [0, 1]


def test_another_trainer_is_named_when_the_callback_is_added(tmp_path):
    listener = Listener()
    trainer = plain(tmp_path, [listener], steps=2)
    trainer.add_callback(GradientConflictCallback(probes(), every=1, trainer=trainer))
    trainer.train()
    assert listener.steps == [0, 1, 2]
    assert [entry["step"] for entry in logged(trainer)] == [0, 1, 2]
    losses = [entry["step"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses == [1, 2]  # none is lost


def test_without_its_trainer_the_callback_keeps_what_it_measures_and_says_so(tmp_path):
    pytest.importorskip("tensorboard")
    listener, callback = Listener(), GradientConflictCallback(probes(), every=1)
    trainer = plain(tmp_path, [listener, callback], steps=1, report_to="tensorboard")
    with pytest.warns(UserWarning, match=r"not be reported to \['tensorboard'\].*trainer=trainer"):
        trainer.train()
    assert listener.steps == []
    assert sorted(callback.history) == [entry["step"] for entry in logged(trainer)] == [0, 1]


@pytest.mark.parametrize("how", ["constructor", "instance", "class"])
def test_our_trainer_introduces_itself(tmp_path, how):
    callback = GradientConflictCallback(every=1, number_of_batches=1)
    given = {"callbacks": [callback]} if how == "constructor" else {}
    trainer = make_trainer(tmp_path, make_model(), max_steps=1, **given)
    if how == "instance":
        trainer.add_callback(callback)
    if how == "class":
        trainer.add_callback(GradientConflictCallback)
    trainer.add_callback(listener := Listener())
    trainer.train()
    assert listener.steps == [0, 1]


def test_tensorboard_gets_numbers_and_words(tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    given = (
        {}
        if "logging_dir" not in TrainingArguments.__dataclass_fields__
        else {"logging_dir": str(tmp_path / "events")}
    )
    trainer = plain(tmp_path, [], steps=1, report_to="tensorboard", **given)
    trainer.add_callback(GradientConflictCallback(probes(), every=1, trainer=trainer))
    trainer.train()
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    (file,) = (tmp_path / "events").rglob("events*")
    events = accumulator.EventAccumulator(str(file)).Reload()
    assert [event.step for event in events.Scalars("train/gradient_cosine_en_sw")] == [0, 1]
    assert "train/most_conflicting/text_summary" in events.Tags()["tensors"]


def test_the_default_interval_follows_from_the_number_of_batches(tmp_path):
    callback = GradientConflictCallback(probes(count=1))
    plain(tmp_path, [callback], steps=51).train()
    assert sorted(callback.history) == [0, 50, 51]
    assert "gradient_cosine_en_en" not in logged_of(
        callback
    )  # a single batch has nothing to be compared with


def logged_of(callback: GradientConflictCallback) -> dict[str, Any]:
    return log_entries(callback.history[0])


def test_of_many_languages_only_means_are_logged(tmp_path):
    keys = tuple(f"l{number}" for number in range(9))
    callback = GradientConflictCallback(probes(keys, 1), every=1)
    plain(tmp_path, [callback], steps=1).train()
    assert not any(name.startswith("gradient_cosine_l0") for name in logged_of(callback))
    assert (
        logged_of(callback)["gradient_cosine_lowest"]
        == callback.history[0].most_conflicting().cosine
    )


@pytest.mark.parametrize("numbers", [False, True])
def test_batches_that_carry_their_languages_are_split(tmp_path, numbers):
    examples = rows(0, 8)
    batches = [collate(examples[:4]), collate(examples[4:])]
    ids = [0, 1, 1, 0], [1, 0, 0, 0]
    for batch, found in zip(batches, ids, strict=True):
        batch["language"] = torch.tensor(found) if numbers else [KEYS[i] for i in found]
    callback = GradientConflictCallback(
        batches, every=9, languages=KEYS if numbers else None, projection=None
    )
    trainer = plain(tmp_path, [callback], steps=1)
    expected = gradient_conflict(
        trainer.model,
        {
            "en": [collate([examples[0], examples[3]]), collate(examples[5:])],
            "sw": [collate(examples[1:3]), collate(examples[4:5])],
        },
    )
    trainer.train()
    torch.testing.assert_close(callback.history[0].matrix, expected.matrix)


def test_a_column_that_the_trainer_drops_comes_with_the_data(tmp_path):
    data = Dataset.from_list(mixed())
    with pytest.raises(DataError, match=r"column 'language'.*dataset=\.\.\."):
        plain(tmp_path, [GradientConflictCallback()], data, steps=1).train()
    callback = GradientConflictCallback(dataset=data, number_of_batches=2)
    plain(tmp_path, [callback], data, steps=1).train()
    assert callback.history[1].languages == KEYS
    assert callback.history[1].number_of_batches == (2, 2)


def test_data_of_each_language_may_be_given(tmp_path):
    callback = GradientConflictCallback(
        dataset=texts(3, ("te", "da")), number_of_batches=3, batch_size=1
    )
    plain(tmp_path, [callback], rows(5, 6), steps=1).train()
    assert callback.history[0].languages == ("te", "da")
    assert callback.history[0].number_of_batches == (3, 3)


def test_a_loss_of_its_own_sees_the_language(tmp_path):
    seen = set()

    def loss_function(model: Any, batch: Any) -> Tensor:
        seen.update(batch["language"])
        return model(**{k: v for k, v in batch.items() if k != "language"}).loss

    callback = GradientConflictCallback(loss_function=loss_function)
    plain(tmp_path, [callback], steps=1, remove_unused_columns=False).train()
    assert seen == set(KEYS)


def test_a_loss_that_is_not_finite_costs_a_point_and_not_the_run(tmp_path):
    def loss_function(model: Any, batch: Any) -> Tensor:
        return model(**batch).loss * float("nan")

    callback = GradientConflictCallback(probes(), every=1, loss_function=loss_function)
    with pytest.warns(UserWarning, match="No gradient conflict after step"):
        plain(tmp_path, [callback], steps=2).train()
    assert callback.history == {}


def test_a_second_run_measures_again(tmp_path):
    callback = GradientConflictCallback(
        {key: iter(several) for key, several in probes().items()}, every=9
    )
    trainer = plain(tmp_path, [callback], steps=2)
    trainer.train()
    first = callback.history
    trainer.train()
    assert sorted(first) == sorted(callback.history) == [0, 2]
    assert torch.equal(callback.history[0].matrix, first[2].matrix)
    assert not torch.equal(callback.history[2].matrix, first[2].matrix)


def test_a_resumed_run_keeps_what_was_measured_before(tmp_path):
    callback = GradientConflictCallback(probes(), every=1)
    plain(tmp_path, [callback], steps=2, save_strategy="steps", save_steps=1).train()
    first = callback.history
    plain(tmp_path, [callback], steps=2).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-1")
    )
    assert sorted(callback.history) == [0, 1, 2]
    assert callback.history[0] is first[0]
    torch.testing.assert_close(callback.history[2].matrix, first[2].matrix)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"every": 0}, ConfigurationError, "`every`"),
        ({"number_of_batches": 0}, ConfigurationError, "`number_of_batches`"),
        ({"batches": {"en": probes()["en"]}}, DataError, "at least two languages"),
        ({"batches": probes()["en"]}, DataError, "entry 'language'"),
        (
            {"batches": [CELL.batch() | {"language": torch.tensor([0, 1])}]},
            ConfigurationError,
            "number 0",
        ),
        ({"batches": [CELL.batch() | {"language": ["e/n", "sw"]}]}, LanguageError, "e/n"),
        ({"language_column": "tongue"}, DataError, "column 'tongue'"),
        ({"dataset": iter(mixed())}, DataError, "streaming"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # the same ones in every process
)
def test_bad_input_is_refused(tmp_path, given, error, words):
    with pytest.raises(error, match=words):
        plain(tmp_path, [GradientConflictCallback(**given)], steps=1).train()
