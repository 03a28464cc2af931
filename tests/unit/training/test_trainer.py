"""The Trainer as a user of transformers expects it: data, evaluation, checkpoints, logs, callbacks,
errors.
"""

from __future__ import annotations

import json
from shutil import rmtree

import datasets
import numpy as np
import pytest
import torch
from peft import LoraConfig
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_meta_adapters import (
    GradientConflictCallback,
    LanguageAdapterModel,
    MetaAdapterTrainer,
    MetaAdapterTrainingArguments,
)
from hf_meta_adapters.errors import (
    ConfigurationError,
    DataError,
    HubError,
    LanguageError,
    NonFiniteLossError,
)
from hf_meta_adapters.training._progress import Progress
from tests.tiny import VOCABULARY, tiny
from tests.training import (
    LANGUAGES,
    Recorder,
    make_model,
    make_tokenizer,
    make_trainer,
    masking,
    moved,
    rows,
    snapshot,
    tensors,
    texts,
)

METER = {"meta_direct_norm", "meta_indirect_norm", "meta_indirect_ratio", "meta_cosine"}


def run(tmp_path, model=None, **given):
    trainer = make_trainer(tmp_path, model or make_model(), **given)
    trainer.train()
    return trainer


def training_logs(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def same(found, expected):
    return all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


# --- data


class MapStyle(Dataset):
    """A dataset with nothing but the two methods of the protocol."""

    def __init__(self, several):
        self._rows = several

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, row):
        return self._rows[row]


def with_extras(several):
    return [
        {"text": "nobody reads this", "id": number, **row} for number, row in enumerate(several)
    ]


KINDS = {
    "map-style": MapStyle,
    "Dataset": datasets.Dataset.from_list,
    "other columns": with_extras,
    "other columns in a Dataset": lambda several: datasets.Dataset.from_list(with_extras(several)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_gives_the_same_training(tmp_path, kind):
    ends = []
    for make in (list, KINDS[kind]):
        model = make_model()
        train, meta, selection = (
            {key: make(one) for key, one in texts(seed).items()} for seed in (1, 2, 3)
        )
        trainer = run(
            tmp_path, model, train_dataset=train, meta_dataset=meta, eval_dataset=selection
        )
        ends.append({**snapshot(model), "eval": torch.tensor(trainer.evaluate()["eval_loss"])})
        assert set(trainer.seen[0]["train"]["te"]) == {"input_ids", "attention_mask", "labels"}
    assert same(*ends)


def streaming(several):
    return {
        key: datasets.Dataset.from_list(one).to_iterable_dataset() for key, one in several.items()
    }


def test_streams_are_read_in_order_and_again(tmp_path):
    trainer = run(
        tmp_path,
        train_dataset=streaming(texts(1, count=3)),
        meta_dataset=streaming(texts(2)),
        max_steps=3,
    )
    read = torch.cat([inputs["train"]["da"]["input_ids"] for inputs in trainer.seen])
    there = torch.tensor([row["input_ids"] for row in texts(1, count=3)["da"]])
    assert torch.equal(read, torch.cat([there, there]))


def test_streams_need_the_number_of_steps(tmp_path):
    given = {
        "train_dataset": streaming(texts(1)),
        "meta_dataset": streaming(texts(2)),
        "max_steps": -1,
    }
    with pytest.raises(
        ConfigurationError, match=r"Found streaming training data for .*`max_steps=1000`"
    ):
        run(tmp_path, **given)


@pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"
)
def test_workers_give_the_same_batches(tmp_path):
    seen = []
    for workers in (0, 1):
        trainer = run(
            tmp_path, data_collator=masking(), max_steps=1, dataloader_num_workers=workers
        )
        seen.append([batch for several in trainer.seen[0].values() for batch in several.values()])
    for one, other in zip(*seen, strict=True):
        assert same(one, other)


def test_settings_of_workers_reach_the_loader(tmp_path):
    given = {
        "dataloader_num_workers": 1,
        "dataloader_persistent_workers": True,
        "dataloader_prefetch_factor": 3,
    }
    loader = make_trainer(tmp_path, make_model(), **given).get_train_dataloader()
    assert (loader.num_workers, loader.persistent_workers, loader.prefetch_factor) == (1, True, 3)


def test_evaluation_asks_for_loaders_by_name(tmp_path):
    """Where workers persist, transformers keeps one loader for each name, and one for all data
    without a name.
    """
    trainer = make_trainer(tmp_path, make_model(), eval_dataset=texts(3))
    asked, give = [], trainer.get_eval_dataloader
    trainer.get_eval_dataloader = lambda name: asked.append(name) or give(name)
    trainer.evaluate()
    assert asked == list(LANGUAGES)
    trainer.evaluate(texts(4))
    assert len(asked) == 3


def test_without_meta_data_a_tenth_of_the_training_data_becomes_it(tmp_path):
    trainer = make_trainer(
        tmp_path, make_model(), train_dataset=texts(1, count=20), meta_dataset=None
    )
    for key in LANGUAGES:
        train, meta = (
            {tuple(row["input_ids"]) for row in one[key]}
            for one in (trainer.train_dataset, trainer.meta_dataset)
        )
        assert (len(train), len(meta), train & meta) == (18, 2, set())


@pytest.mark.parametrize(
    ("options", "given"),
    [({"config": None}, {}), ({"share_adapter": True}, {}), ({}, {"adapter_update": "train"})],
)
def test_a_baseline_trains_on_all_of_it(tmp_path, options, given):
    trainer = make_trainer(
        tmp_path, make_model(**options), train_dataset=texts(1), meta_dataset=None, **given
    )
    assert {key: len(one) for key, one in trainer.train_dataset.items()} == dict.fromkeys(
        LANGUAGES, 8
    )
    trainer.train()
    assert not any(name.startswith("meta") for entry in trainer.state.log_history for name in entry)


def test_batch_sizes_are_those_of_one_language(tmp_path):
    trainer = run(tmp_path, per_device_train_batch_size=3, meta_batch_size=1, languages_per_step=2)
    for inputs in trainer.seen:
        assert set(inputs["train"]) == set(inputs["meta"])
        assert [len(one["labels"]) for one in inputs["train"].values()] == [3, 3]
        assert [len(one["labels"]) for one in inputs["meta"].values()] == [1, 1]
    done = trainer.state.log_history[-1]
    assert done["train_samples_per_second"] * done["train_runtime"] == pytest.approx(
        2 * 3 * 2, rel=0.01
    )


# --- losses


def test_a_loss_function_and_label_smoothing_act_in_training_and_evaluation(tmp_path):
    def doubled(outputs, labels, num_items_in_batch=None):
        scores = outputs["logits"].flatten(0, 1)
        return 2 * torch.nn.functional.cross_entropy(scores, labels.flatten())

    plain = run(tmp_path, max_steps=1, eval_dataset=texts(3))
    other = run(
        tmp_path, max_steps=1, eval_dataset=texts(3), compute_loss_func=doubled, learning_rate=0.0
    )
    smooth = run(
        tmp_path, max_steps=1, eval_dataset=texts(3), label_smoothing_factor=0.5, learning_rate=0.0
    )
    untrained = make_trainer(tmp_path, make_model(), eval_dataset=texts(3)).evaluate()["eval_loss"]
    first = training_logs(plain)[0]
    for name in ("loss", "loss_te", "loss_zh-Hant"):
        assert training_logs(other)[0][name] == pytest.approx(2 * first[name], rel=1e-4)
        assert training_logs(smooth)[0][name] != pytest.approx(first[name], rel=1e-3)
    assert other.evaluate()["eval_loss"] == pytest.approx(2 * untrained, rel=1e-5)


@pytest.mark.parametrize(
    "head", ["question_answering", "token_classification", "sequence_classification"]
)
def test_evaluation_finds_the_labels_of_every_head(tmp_path, head):
    cell = tiny("xlm-r", head)
    batch = cell.batch(1, rows=4)
    several = {"sw": [{name: tensor[row] for name, tensor in batch.items()} for row in range(4)]}
    model = make_model(["sw"], head=head)
    found = make_trainer(
        tmp_path, model, train_dataset=None, meta_dataset=None, eval_dataset=several
    ).evaluate()
    with torch.no_grad():
        expected = model.eval()(language="sw", **batch).loss.item()
    assert found["eval_sw_loss"] == pytest.approx(expected, rel=1e-5)


def test_mixed_precision_trains(tmp_path, monkeypatch):
    monkeypatch.setenv(
        "ACCELERATE_MIXED_PRECISION", "no"
    )  # transformers 4 writes it, and would for all tests to come
    model = make_model()
    plain = run(tmp_path, make_model(), max_steps=2)
    trainer = run(tmp_path, model, bf16=True, max_steps=2)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    for one, other in zip(training_logs(trainer), training_logs(plain), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.02)
        assert one["loss"] != other["loss"]


# --- evaluation


def accuracy(prediction):
    chosen = prediction.predictions.argmax(-1)
    known = prediction.label_ids != -100
    return {
        "accuracy": float((chosen == prediction.label_ids)[known].mean()),
        "rows": len(chosen),
        "names": ["a"],
    }


def test_metrics_come_per_language_and_as_means(tmp_path):
    model, sizes = make_model(), {"te": 3, "da": 4, "zh-Hant": 5}
    selection = {key: rows(number, size) for number, (key, size) in enumerate(sizes.items())}
    trainer = make_trainer(
        tmp_path,
        model,
        eval_dataset=selection,
        compute_metrics=accuracy,
        per_device_eval_batch_size=8,
    )
    found = trainer.evaluate()
    expected = {}
    for key, several in selection.items():
        batch = {name: torch.tensor([row[name] for row in several]) for name in several[0]}
        with torch.no_grad():
            outputs = model.eval()(language=key, **batch)
        known = batch["labels"] != -100
        expected[f"eval_{key}_loss"] = outputs.loss.item()
        expected[f"eval_{key}_accuracy"] = (
            (outputs.logits.argmax(-1) == batch["labels"])[known].float().mean().item()
        )
        assert found[f"eval_{key}_rows"] == sizes[key]
    for name in ("loss", "accuracy"):
        expected[f"eval_{name}"] = np.mean([expected[f"eval_{key}_{name}"] for key in LANGUAGES])
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert found["eval_rows"] == 4
    assert "eval_names" not in found
    assert trainer.state.log_history[-1]["eval_loss"] == found["eval_loss"]


def test_evaluation_of_other_data_and_another_prefix(tmp_path):
    trainer = make_trainer(tmp_path, make_model(), eval_dataset=texts(3))
    found = trainer.evaluate(texts(4, ["da"]), metric_key_prefix="test")
    assert {name for name in found if name.endswith("loss")} == {"test_da_loss", "test_loss"}
    assert found["test_loss"] != trainer.evaluate()["eval_da_loss"]


def test_prediction_gives_the_scores_of_each_language_in_its_language(tmp_path):
    model = make_model()
    trainer = make_trainer(tmp_path, model, compute_metrics=accuracy)
    same_rows = dict.fromkeys(("te", "da"), rows(5))
    found = trainer.predict(same_rows)
    batch = {name: torch.tensor([row[name] for row in rows(5)]) for name in rows(5)[0]}
    for key in same_rows:
        with torch.no_grad():
            expected = model.eval()(language=key, **batch).logits
        assert np.allclose(found[key].predictions, expected, atol=1e-5)
        assert {f"test_{key}_accuracy", f"test_{key}_loss"} <= set(found[key].metrics)
    assert not np.allclose(found["te"].predictions, found["da"].predictions)


def test_evaluation_leaves_no_trace(tmp_path):
    model = make_model(dropout=0.1)
    trainer = make_trainer(tmp_path, model, eval_dataset=texts(3), data_collator=masking())
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    model.set_language("da")
    first, second = trainer.evaluate(), trainer.evaluate()
    assert first["eval_loss"] == second["eval_loss"]  # the same masks
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert model.language == "da"


# --- checkpoints

SAVED = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}


class Snapshots(TrainerCallback):
    """A copy of the weights after each step."""

    def __init__(self):
        self.taken = []

    def on_step_end(self, args, state, control, model=None, **_):
        self.taken.append(snapshot(model))


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ({}, {}),
        ({}, {"save_strategy": "best"}),
        ({"share_adapter": True}, {}),
        ({"config": None}, {}),
    ],
    ids=str,
)
def test_the_best_model_is_loaded_with_every_adapter(tmp_path, options, saved):
    model, copies = make_model(**options), Snapshots()
    scores = iter(
        [0.1, 0.2, 0.3, 0.7, 0.8, 0.9, 0.4, 0.5, 0.6]
    )  # of three languages after each of three steps
    given = {
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_score",
        "greater_is_better": True,
    }
    given |= {
        "compute_metrics": lambda _: {"score": next(scores)},
        "eval_dataset": texts(3),
        "max_steps": 3,
    }
    trainer = run(tmp_path, model, callbacks=[copies], **{**SAVED, **saved}, **given)
    assert trainer.state.best_metric == pytest.approx(0.8)
    assert same(snapshot(model), copies.taken[1])
    assert not same(snapshot(model), copies.taken[2])


@pytest.mark.parametrize("name", ["eval_loss", "eval_da_loss"])
def test_the_best_model_by_the_mean_loss_or_that_of_a_language(tmp_path, name):
    given = {
        "load_best_model_at_end": True,
        "metric_for_best_model": name,
        "greater_is_better": False,
    }
    trainer = run(tmp_path, eval_dataset=texts(3), learning_rate=0.3, max_steps=3, **SAVED, **given)
    best = min(entry[name] for entry in trainer.state.log_history if name in entry)
    assert trainer.state.best_metric == best
    assert trainer.evaluate()[name] == pytest.approx(best, rel=1e-6)


def test_early_stopping(tmp_path):
    given = {
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "learning_rate": 0.0,
    }
    stop = EarlyStoppingCallback(early_stopping_patience=2)
    trainer = run(tmp_path, eval_dataset=texts(3), max_steps=9, callbacks=[stop], **SAVED, **given)
    assert trainer.state.global_step == 3  # the first is the best, and two are not better


def test_resumes_from_the_last_checkpoint(tmp_path):
    model, other = make_model(), make_model(seed=1)
    run(tmp_path, model, max_steps=4, save_strategy="steps", save_steps=3)
    rmtree(tmp_path / "checkpoint-4")
    trainer = make_trainer(tmp_path, other, max_steps=4, save_strategy="steps", save_steps=3)
    trainer.train(resume_from_checkpoint=True)
    assert len(trainer.seen) == 1
    assert same(snapshot(model), snapshot(other))


@pytest.mark.parametrize(
    "config", ["bottleneck", LoraConfig(r=2, target_modules=["query"])], ids=["bottleneck", "lora"]
)
def test_a_saved_model_loads_and_is_the_same(tmp_path, config):
    model = make_model(config=config)
    trainer = run(
        tmp_path / "run",
        model,
        preset="paper",
        processing_class=make_tokenizer(),
        data_collator=masking(),
    )
    trainer.save_model(str(tmp_path / "saved"))
    loaded = LanguageAdapterModel.from_pretrained(tmp_path / "saved")
    assert same(tensors(loaded), tensors(model))
    written = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {"model.safetensors", "tokenizer.json", "training_args.json", *LANGUAGES} <= written
    assert not [
        path
        for path in (tmp_path / "saved").rglob("*")
        if path.suffix in {".bin", ".pt", ".pkl", ".pth"}
    ]
    recorded = json.loads((tmp_path / "saved" / "language_adapters.json").read_text())
    assert recorded["details"]["training"]["meta_gradient"] == "exact"
    assert json.loads((tmp_path / "saved" / "training_args.json").read_text())["preset"] == "paper"


# --- optimizer


class Rates(TrainerCallback):
    """The rates of the parameter groups in each step."""

    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
        self.seen.append([group["lr"] for group in optimizer.param_groups])


def test_adapters_have_their_own_rate_and_share_the_schedule(tmp_path):
    rates, model = Rates(), make_model()
    given = {
        "learning_rate": 0.1,
        "adapter_learning_rate": 0.4,
        "weight_decay": 0.3,
        "warmup_steps": 2,
        "max_steps": 4,
    }
    trainer = run(tmp_path, model, callbacks=[rates], **given)
    groups = trainer.optimizer.param_groups
    own = {id(p) for key in LANGUAGES for p in model.language_parameters(key).values()}
    assert [all(id(p) in own for p in group["params"]) for group in groups] == [
        False,
        False,
        True,
        True,
    ]
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0, 0.3, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    factors = [0.0, 0.5, 1.0, 0.5]
    assert rates.seen == [pytest.approx([0.1 * f, 0.1 * f, 0.4 * f, 0.4 * f]) for f in factors]
    logged = [
        (entry["learning_rate"], entry["adapter_learning_rate"]) for entry in training_logs(trainer)
    ]
    assert logged == [pytest.approx((0.1 * f, 0.4 * f)) for f in factors]


@pytest.mark.parametrize(
    ("options", "given", "expected"),
    [
        ({}, {}, 0.2),
        ({}, {"preset": "fast"}, 0.2),
        ({}, {"preset": "paper"}, 0.1),
        ({"shared": "none"}, {"adapter_update": "train"}, 0.1),
        ({}, {"adapter_learning_rate": 0.3}, 0.3),
    ],
    ids=str,
)
def test_the_rate_of_adapters_by_default(tmp_path, options, given, expected):
    model = make_model(**options)
    run(tmp_path, model, callbacks=[rates := Rates()], learning_rate=0.1, max_steps=1, **given)
    own = 0 if options else 2  # groups of θ, with weight decay and without
    assert rates.seen == [[0.1] * own + [expected] * (len(rates.seen[0]) - own)]


def test_embeddings_have_their_own_rate_and_share_the_schedule(tmp_path):
    rates, model = Rates(), make_model()
    given = {"learning_rate": 0.1, "adapter_learning_rate": 0.4, "embedding_learning_rate": 0.3}
    trainer = run(tmp_path, model, callbacks=[rates], warmup_steps=2, max_steps=3, **given)

    inside = {id(model.base_model.get_input_embeddings().weight)}
    inside.add(id(model.base_model.get_output_embeddings().bias))
    rate_of = {}
    for group in trainer.optimizer.param_groups:
        rate_of |= {id(parameter): group["initial_lr"] for parameter in group["params"]}
    assert {rate_of[each] for each in inside} == {0.3}
    others = {id(p) for p in model.shared_parameters().values()} - inside
    assert {rate_of[each] for each in others} == {0.1}
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == len(rate_of)

    own = {id(p) for key in LANGUAGES for p in model.language_parameters(key).values()}
    assert {rate_of[each] for each in own} == {0.4}
    assert [set(seen) for seen in rates.seen[1:]] == [{0.05, 0.15, 0.2}, {0.1, 0.3, 0.4}]
    assert training_logs(trainer)[-1]["adapter_learning_rate"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({"shared": "none"}, {}, "Found none of them in θ"),
        ({}, {"optimizer": True}, "`embedding_learning_rate`.*together with an optimizer"),
    ],
)
def test_a_rate_without_embeddings_is_refused(tmp_path, options, given, message):
    model = make_model(**options)
    if given:
        given = {"optimizers": (torch.optim.SGD(model.parameters(), lr=0.1), None)}
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(tmp_path, model, embedding_learning_rate=0.1, adapter_update="train", **given)


def test_an_optimizer_of_the_user_is_used_as_it_is(tmp_path):
    model = make_model()
    optimizer = torch.optim.SGD(model.shared_parameters().values(), lr=0.1)
    before = snapshot(model)
    trainer = run(tmp_path, model, optimizers=(optimizer, None))
    assert trainer.optimizer.optimizer is optimizer
    assert moved(before, model) == {"shared"}
    assert not any("adapter_learning_rate" in entry for entry in training_logs(trainer))
    with pytest.raises(
        ConfigurationError,
        match=r"together with an optimizer that you created, `SGD`.*`shared_parameters\(\)`",
    ):
        make_trainer(tmp_path, model, optimizers=(optimizer, None), adapter_learning_rate=0.1)


def test_an_optimizer_with_two_modes_is_in_the_right_one(tmp_path):
    class Modes(torch.optim.SGD):
        calls: list

        def train(self):
            self.calls.append("train")

        def eval(self):
            self.calls.append("eval")

        def step(self, closure=None):
            self.calls.append("step")

    model = make_model()
    optimizer = Modes(model.parameters(), lr=0.1)
    optimizer.calls = []
    run(
        tmp_path,
        model,
        optimizers=(optimizer, None),
        max_steps=2,
        eval_dataset=texts(3, ["te"]),
        **SAVED,
    )
    assert optimizer.calls == ["train", "step", "eval"] * 2


# --- logs


def test_logs_hold_losses_of_languages_and_the_meter(tmp_path):
    trainer = run(tmp_path, max_steps=4, logging_steps=2, meta_every=2, inner_learning_rate=0.5)
    for entry in training_logs(trainer):
        assert METER | {
            f"{role}_{key}" for role in ("loss", "meta_loss") for key in LANGUAGES
        } < set(entry)
        assert entry["loss"] == pytest.approx(
            np.mean([entry[f"loss_{key}"] for key in LANGUAGES]), rel=1e-5
        )
        assert entry["meta_indirect_ratio"] == pytest.approx(
            entry["meta_indirect_norm"] / entry["meta_direct_norm"]
        )
    assert [entry["step"] for entry in training_logs(trainer)] == [2, 4]
    assert not any(name.startswith(("loss_", "meta_")) for name in trainer.state.log_history[-1])


def test_a_log_line_holds_only_what_was_in_its_steps(tmp_path):
    trainer = run(tmp_path, max_steps=4, meta_every=2, languages_per_step=1, sampling_alpha=0)
    for entry, inputs in zip(training_logs(trainer), trainer.seen, strict=True):
        (key,) = inputs["train"]
        assert {name for name in entry if name.startswith("loss_")} == {f"loss_{key}"}
        assert (set(entry) >= METER) == (f"meta_loss_{key}" in entry) == (entry["step"] % 2 == 1)


def test_warns_when_the_second_order_part_is_negligible(tmp_path):
    with pytest.warns(UserWarning, match="hardly acts") as caught:
        run(tmp_path, max_steps=4, inner_learning_rate=1e-5)
    assert len(caught) == 1


def test_tensorboard_gets_every_scalar(tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv(
        "TENSORBOARD_LOGGING_DIR", str(tmp_path / "board")
    )  # transformers 5; 4 has `logging_dir`
    given = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "eval_dataset": texts(3),
        "adapter_learning_rate": 0.1,
    }
    conflict = GradientConflictCallback(every=1, number_of_batches=2)
    trainer = run(tmp_path, report_to="tensorboard", callbacks=[conflict], **given)
    (folder,) = {path.parent for path in tmp_path.rglob("events.out.*")}
    board = accumulator.EventAccumulator(str(folder))
    board.Reload()
    names = METER | {
        f"{kind}_{key}" for kind in ("loss", "meta_loss", "examples_seen") for key in LANGUAGES
    }
    names |= {"loss", "learning_rate", "adapter_learning_rate", "examples_per_second"}
    names |= {"gradient_cosine_te_da", "gradient_cosine_te_te", "gradient_cosine_lowest"}
    for name in names:
        written = [(event.step, event.value) for event in board.Scalars(f"train/{name}")]
        logged = [(line["step"], line[name]) for line in trainer.state.log_history if name in line]
        assert written == [(step, pytest.approx(value, rel=1e-5)) for step, value in logged], name
        assert len(written) >= 2
    assert [event.value for event in board.Scalars("train/examples_seen_te")] == [2, 4]
    assert {f"eval/{key}_loss" for key in LANGUAGES} | {"eval/loss"} <= set(board.Tags()["scalars"])


def test_the_speed_leaves_evaluation_and_saving_out(monkeypatch):
    seconds = iter([0.0, 2.0, 7.0, 10.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(seconds))
    progress = Progress()
    progress.add_step({"train": ["te", "da"], "meta": ["te", "da"]}, {"train": 8, "meta": 4})
    with progress.paused():
        pass
    assert progress.logs() == {
        "examples_seen_da": 8,
        "examples_seen_te": 8,
        "examples_per_second": 16 / 5,
    }
    assert progress.examples_seen == {"train": {"da": 8, "te": 8}, "meta": {"da": 4, "te": 4}}


def test_callbacks_see_every_event(tmp_path):
    events = []

    class Listener(TrainerCallback):
        def __getattribute__(self, name):
            if name.startswith("on_"):
                events.append(name)
            return super().__getattribute__(name)

    run(
        tmp_path,
        callbacks=[Listener()],
        gradient_accumulation_steps=2,
        max_steps=1,
        eval_dataset=texts(3),
        **SAVED,
    )
    expected = [
        "on_epoch_begin",
        "on_step_begin",
        "on_substep_end",
        "on_pre_optimizer_step",
        "on_optimizer_step",
    ]
    expected += ["on_step_end", "on_log", "on_evaluate", "on_save", "on_train_end"]
    places = [events.index(name) for name in expected]
    assert places == sorted(places)


def test_a_step_that_was_broken_off_leaves_no_micro_batch_behind(tmp_path):
    class StopOnce(TrainerCallback):
        def on_substep_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 1

    given = {"gradient_accumulation_steps": 2, "max_steps": 3}
    trainer = make_trainer(tmp_path, make_model(), callbacks=[StopOnce()], **given)
    trainer.train()
    assert (trainer.state.global_step, len(trainer.seen)) == (1, 3)
    trainer.remove_callback(StopOnce)
    trainer.train()
    assert trainer.state.global_step == 3
    assert len(trainer.seen) == 3 + 6
    assert trainer._micro_batches == []


def test_gradient_checkpointing_gives_the_same_training(tmp_path):
    name = next(
        n
        for n in ("activation_checkpointing", "gradient_checkpointing")
        if hasattr(arguments(tmp_path), n)
    )
    ends = []
    for given in ({}, {name: True}):
        model = make_model(dropout=0.1)
        run(tmp_path, model, **given)
        ends.append(snapshot(model))
        checkpoints = [
            part.gradient_checkpointing
            for part in model.modules()
            if hasattr(part, "gradient_checkpointing")
        ]
        assert any(checkpoints) == bool(given)
    assert same(*ends)


def arguments(tmp_path):
    return MetaAdapterTrainingArguments(str(tmp_path), report_to="none", use_cpu=True)


# --- errors


def poisoned(several, token=0):
    """The first row has labels of which `not_finite` makes NaN."""
    return [
        {**row, "labels": [VOCABULARY - 1] * len(row["labels"])} if number == token else row
        for number, row in enumerate(several)
    ]


def not_finite(outputs, labels, num_items_in_batch=None):
    loss = torch.nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten())
    return loss * float("nan") if bool((labels == VOCABULARY - 1).all()) else loss


@pytest.mark.parametrize("preset", [None, "paper"])
@pytest.mark.parametrize("role", ["train", "meta"])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, preset, role):
    data = {"train": texts(1), "meta": texts(2)}
    data[role]["da"] = poisoned(data[role]["da"])
    copies, model = Snapshots(), make_model()
    given = {
        "train_dataset": data["train"],
        "meta_dataset": data["meta"],
        "per_device_train_batch_size": 1,
    }
    given |= {
        "save_strategy": "steps",
        "save_steps": 1,
        "max_steps": 20,
        "callbacks": [copies],
        "preset": preset,
        "compute_loss_func": not_finite,
    }
    trainer = make_trainer(tmp_path, model, seed=2, **given)
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.train()
    steps = trainer.state.global_step
    assert steps > 0
    assert f"{'training' if role == 'train' else 'meta'} loss of 'da'" in str(caught.value)
    assert f"after {steps} steps" in str(caught.value)
    assert f"The last checkpoint is {tmp_path / f'checkpoint-{steps}'}." in str(caught.value)
    if preset is None:
        assert same(snapshot(model), copies.taken[-1])
    again = make_model(seed=1)
    again.load_weights(tmp_path / f"checkpoint-{steps}")
    assert same(snapshot(again), copies.taken[-1])
    assert all(bool(tensor.isfinite().all()) for tensor in snapshot(model).values())


DATA = {
    "no dict": (
        {"train_dataset": rows(1)},
        DataError,
        "`train_dataset` must be a dict from language to data. Found a `list`.",
    ),
    "no dict of meta data": (
        {"meta_dataset": rows(1)},
        DataError,
        '`meta_dataset={"en": ..., "sw": ...}`',
    ),
    "no dict of selection data": (
        {"eval_dataset": rows(1)},
        DataError,
        "`eval_dataset` must be a dict",
    ),
    "unknown": (
        {"train_dataset": texts(1, ["te", "zh"])},
        LanguageError,
        r"\['te', 'da', 'zh-Hant'\]. Found 'zh'.",
    ),
    "unknown meta": (
        {"meta_dataset": texts(1, ["TE"])},
        LanguageError,
        "Found 'TE'. Did you mean 'te'?",
    ),
    "unknown selection": (
        {"eval_dataset": texts(1, ["sw"])},
        LanguageError,
        "must be one of this model.*Found 'sw'",
    ),
    "not in meta": (
        {"meta_dataset": texts(2, ["te", "da"])},
        DataError,
        r"Found \['zh-Hant'\] in train alone",
    ),
    "not in train": (
        {"train_dataset": texts(1, ["te"])},
        DataError,
        r"Found \['da', 'zh-Hant'\] in meta alone",
    ),
    "empty": (
        {"train_dataset": {**texts(1), "da": []}},
        DataError,
        "train data of 'da' must hold examples. Found none.",
    ),
    "empty meta": (
        {"meta_dataset": {**texts(1), "da": []}},
        DataError,
        "meta data of 'da' must hold examples",
    ),
    "overlap": (
        {"meta_dataset": {**texts(2), "da": texts(1)["da"]}},
        DataError,
        "Found 8 rows of the meta data of 'da'",
    ),
    "overlap with selection": (
        {"eval_dataset": texts(1, ["te"])},
        DataError,
        "rows of the selection data of 'te'",
    ),
    "streams without meta": (
        {"train_dataset": streaming(texts(1)), "meta_dataset": None},
        DataError,
        "Pass the meta text separately, as `meta_dataset`",
    ),
}


@pytest.mark.parametrize("what", DATA)
def test_data_that_cannot_work(tmp_path, what):
    given, kind, message = DATA[what]
    with pytest.raises(kind, match=message) as caught:
        make_trainer(tmp_path, make_model(), **given)
    assert "\n" not in str(caught.value)


def test_models_and_arguments_of_other_kinds_are_refused(tmp_path):
    model = make_model()
    with pytest.raises(
        ConfigurationError, match=r"Found `XLMRobertaForMaskedLM`. Pass `get_language_model\("
    ):
        MetaAdapterTrainer(model.base_model, arguments(tmp_path))
    with pytest.raises(
        ConfigurationError, match=r"`args` must be MetaAdapterTrainingArguments. Found `dict`."
    ):
        MetaAdapterTrainer(model, {"output_dir": str(tmp_path)})


def test_label_smoothing_of_a_decoder_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="`label_smoothing_factor` must be 0"):
        make_trainer(tmp_path, make_model(name="llama"), label_smoothing_factor=0.1)


@pytest.mark.parametrize("call", ["train", "evaluate", "predict"])
def test_work_without_data_is_refused(tmp_path, call):
    trainer = make_trainer(tmp_path, make_model(), train_dataset=None, meta_dataset=None)
    name = {"train": "train_dataset", "evaluate": "eval_dataset", "predict": "test_dataset"}[call]
    with pytest.raises(
        DataError, match=f"`{name}` must be a dict from language to data. Found none"
    ):
        getattr(trainer, call)(*([None] if call == "predict" else []))


def test_evaluation_in_an_unknown_language_is_refused(tmp_path):
    with pytest.raises(LanguageError, match="Found 'sw'"):
        make_trainer(tmp_path, make_model()).evaluate(texts(1, ["sw"]))


def test_a_frozen_base_is_refused_before_anything_moves(tmp_path):
    model = make_model(shared="none")
    before = snapshot(model)
    with pytest.raises(ConfigurationError, match="Found no shared parameter") as error:
        run(tmp_path, model)
    assert same(snapshot(model), before)
    run(tmp_path, model, meta_gradient="first_order", lookahead="none")
    assert moved(before, model) == set(LANGUAGES)

    # what the message advises learns from the training text
    assert '`adapter_update="train"`' in str(error.value)
    before = snapshot(model)
    run(tmp_path, model, adapter_update="train")
    assert moved(before, model) == set(LANGUAGES)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run(tmp_path, make_model(["en", "sw"]), save_strategy="steps", save_steps=2)
    with pytest.raises(
        HubError, match=r"the run that was .*checkpoint-2: `languages` was \['en', 'sw'\] and is"
    ):
        make_trainer(tmp_path, make_model()).train(resume_from_checkpoint=True)


def test_several_devices_in_one_process_are_not_used(tmp_path):
    args = arguments(tmp_path)
    args._n_gpu = 2
    MetaAdapterTrainer(make_model(), args, train_dataset=texts(1), meta_dataset=texts(2))
    assert args.n_gpu == 1


def test_a_smaller_batch_is_found_where_memory_is_short(tmp_path):
    class Short(Recorder):
        def training_step(self, model, inputs, num_items_in_batch=None):
            if len(inputs["train"]["te"]["labels"]) > 2:
                raise RuntimeError("CUDA out of memory. Tried to allocate")
            return super().training_step(model, inputs, num_items_in_batch)

    trainer = make_trainer(
        tmp_path, make_model(), kind=Short, auto_find_batch_size=True, per_device_train_batch_size=8
    )
    trainer.train()
    assert {len(inputs["train"]["te"]["labels"]) for inputs in trainer.seen} == {2}


def test_the_number_of_operations_is_counted_over_languages(tmp_path):
    trainer = make_trainer(tmp_path, make_model())
    one = {"input_ids": torch.ones(2, 6, dtype=torch.long)}
    single = trainer.floating_point_ops({"train": {"te": one}})
    assert single > 0
    assert (
        trainer.floating_point_ops({"train": {"te": one, "da": one}, "meta": {"te": one}})
        == 2 * single
    )
