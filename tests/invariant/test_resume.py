"""A run that is interrupted and resumed is bitwise the one that was not: weights, optimizer, data,
counts, logs.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields

import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState

from tests.tiny import tiny
from tests.training import (
    LANGUAGES,
    make_model,
    make_tokenizer,
    make_trainer,
    masking,
    rows,
    snapshot,
    texts,
)

STEPS = 6
WORKERS = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"
)


def streams(seed):
    """The rows as streaming datasets."""
    several = texts(seed)
    return {
        key: IterableDataset.from_generator(lambda several=several, key=key: iter(several[key]))
        for key in several
    }


def shuffled_streams(seed):
    """Streams of several shards with a shuffle buffer, in another order in every pass."""
    several = {
        key: Dataset.from_list(one).to_iterable_dataset(num_shards=2)
        for key, one in texts(seed).items()
    }
    return {key: one.shuffle(seed=3, buffer_size=4) for key, one in several.items()}


def timeless(history):
    """Log lines without what is measured by the clock; the last of a run holds nothing else."""
    return [
        {k: v for k, v in line.items() if k != "examples_per_second"}
        for line in history
        if "loss" in line
    ]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name, tensor in found.items() if not torch.equal(tensor, expected[name])] == []


def assert_same_run(whole, resumed):
    assert_same(snapshot(whole.model), snapshot(resumed.model))
    states = [trainer.optimizer.state_dict() for trainer in (whole, resumed)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for number, state in states[0]["state"].items():
        assert_same(state, states[1]["state"][number])
    assert whole.lr_scheduler.state_dict() == resumed.lr_scheduler.state_dict()
    assert torch.equal(torch.tensor(whole.draws), torch.tensor(resumed.draws))
    assert whole.progress.state_dict() == resumed.progress.state_dict()
    assert timeless(whole.state.log_history) == timeless(resumed.state.log_history)
    assert len(timeless(whole.state.log_history)) == whole.state.max_steps


def whole_and_resumed(tmp_path, step, given, options, steps=STEPS):
    """A run of some steps, and another model that goes on from its checkpoint."""
    given = {
        "max_steps": steps,
        "save_strategy": "steps",
        "save_steps": step,
        "data_collator": masking(),
        **given,
    }
    trainers = []
    for seed, checkpoint in ((0, None), (1, str(tmp_path / f"checkpoint-{step}"))):
        trainer = make_trainer(tmp_path, make_model(dropout=0.1, seed=seed, **options), **given)
        torch.manual_seed(seed)
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.draws = torch.rand(3).tolist()  # what the next dropout would be
        trainers.append(trainer)
    assert len(trainers[1].seen) == (steps - step) * given.get("gradient_accumulation_steps", 1)
    return trainers


def unequal(seed):
    """Rows of 2 to 6 tokens, without labels."""
    one = {key: rows(100 * seed + number, 40) for number, key in enumerate(LANGUAGES)}
    return {
        key: [{"input_ids": row["input_ids"][: 2 + place % 5]} for place, row in enumerate(several)]
        for key, several in one.items()
    }


_ARGUMENTS = {field.name for field in fields(TrainingArguments)}
GROUPED = {"group_by_length": True}
if "train_sampling_strategy" in _ARGUMENTS:
    GROUPED = {"train_sampling_strategy": "group_by_length"}

RESUMED = {
    "rows grouped by length": (
        3,
        {**GROUPED, "train_dataset": unequal(1), "meta_dataset": unequal(2)},
        {},
    ),
    "in an epoch": (2, {}, {}),
    "at the end of an epoch": (4, {}, {}),
    "accumulation, some languages, meta-gradients now and then": (
        3,
        {"gradient_accumulation_steps": 2, "languages_per_step": 2, "meta_every": 2},
        {},
    ),
    "rates": (
        3,
        {
            "adapter_learning_rate": 0.1,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 2,
            "weight_decay": 0.1,
        }
        | {"inner_optimizer": "adam", "inner_learning_rate": None},
        {},
    ),
    "meta rows of training text, in a pass of two steps": (
        3,
        {"meta_dataset": "train", "meta_batch_size": 1},
        {},
    ),
    "UniMax": (
        4,
        {
            "sampling": "unimax",
            "sampling_max_epochs": 3,
            "languages_per_step": 2,
            "train_dataset": unequal(1) | {"te": rows(5, 3)},
            "meta_dataset": unequal(2),
        },
        {},
    ),
    "cooldown": (
        4,
        {
            "sampling": "cooldown",
            "sampling_alpha": 0.0,
            "languages_per_step": 1,
            "train_dataset": unequal(1) | {"te": rows(5, 3)},
            "meta_dataset": unequal(2),
        },
        {},
    ),
    "FAMO, some languages": (
        3,
        {"language_weights": "famo", "adapter_update": "train", "languages_per_step": 2},
        {},
    ),
    "weights by alignment, meta-gradients now and then": (
        3,
        {"language_weights": "alignment", "language_weights_rate": 0.5, "meta_every": 2},
        {},
    ),
    "weights by alignment, alternating": (
        2,
        {"language_weights": "alignment", "preset": "paper"},
        {},
    ),
    "rows chosen": (3, {"mixed_rows": "auto", "inner_learning_rate": 3.0}, {}),
    "rows chosen, alternating, accumulation": (
        2,
        {"mixed_rows": "auto", "preset": "paper", "gradient_accumulation_steps": 2},
        {},
    ),
    "some languages in the second-order part": (3, {"mixed_languages": 0.5}, {}),
    "joint": (3, {}, {"config": None}),
    "surgery, kept, with targets, some languages": (
        3,
        {"shared_update": "gradvac", "surgery_gradients": "keep", "languages_per_step": 2},
        {},
    ),
    "surgery, sketched, before an alternating step": (
        3,
        {"shared_update": "pcgrad", "surgery_gradients": "sketch", "update_order": "alternating"},
        {},
    ),
    "surgery, lagged, layer by layer": (
        2,
        {
            "shared_update": "upgrad",
            "surgery_gradients": "lagged",
            "shared_update_groups": "layer",
            "gradient_accumulation_steps": 2,
            "meta_every": 2,
        },
        {},
    ),
    "surgery, lagged, joint": (
        3,
        {"shared_update": "pcgrad", "surgery_gradients": "lagged", "languages_per_step": 2},
        {"config": None},
    ),
    "shared adapter": (3, {}, {"share_adapter": True}),
    "streaming": (3, {"train_dataset": streams, "meta_dataset": streams}, {}),
    "streaming, some languages": (
        4,
        {
            "train_dataset": shuffled_streams,
            "meta_dataset": shuffled_streams,
            "languages_per_step": 1,
        },
        {},
    ),
    "streaming in a worker": (
        3,
        {"train_dataset": streams, "meta_dataset": streams, "dataloader_num_workers": 1},
        {},
    ),
    "workers": (2, {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}, {}),
}


@pytest.mark.parametrize("name", RESUMED)
@WORKERS
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path, name):
    step, method, options = RESUMED[name]
    given = {
        key: value(seed) if callable(value) else value
        for seed, (key, value) in enumerate(method.items())
    }
    assert_same_run(*whole_and_resumed(tmp_path, step, given, options))


@pytest.mark.parametrize("update_order", ["simultaneous", "alternating"])
@pytest.mark.parametrize(
    ("adapter_update", "meta_gradient"),
    [
        *(
            (update, kind)
            for update in ("meta", "meta+train")
            for kind in ("exact", "finite_difference")
        ),
        *(
            (update, kind)
            for update in ("meta", "meta+train")
            for kind in ("forward_mode", "first_order")
        ),
        ("train", "first_order"),
    ],
)
def test_every_method_resumes(tmp_path, adapter_update, meta_gradient, update_order):
    lookahead = "per_language" if update_order == "alternating" else "shared"
    method = {
        "adapter_update": adapter_update,
        "meta_gradient": meta_gradient,
        "update_order": update_order,
    }
    assert_same_run(
        *whole_and_resumed(tmp_path, 2, {"lookahead": lookahead, **method}, {}, steps=4)
    )


def test_a_checkpoint_holds_everything(tmp_path):
    method = {"languages_per_step": 2, "save_strategy": "steps", "save_steps": 3, "max_steps": 3}
    trainer = make_trainer(tmp_path, make_model(), meta_batch_size=1, **method)
    trainer.train()
    folder = tmp_path / "checkpoint-3"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    held = {f"{key}/adapter_model.safetensors" for key in LANGUAGES} | {
        "model.safetensors",
        "checkpoint.json",
    }
    assert held | {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= files
    recorded = json.loads((folder / "checkpoint.json").read_text())
    assert set(recorded["files"]) == files - {"checkpoint.json"}
    counted = {"train": Counter(), "meta": Counter()}
    for inputs in trainer.seen:
        for role, several in inputs.items():
            counted[role].update({key: len(batch["input_ids"]) for key, batch in several.items()})
    assert recorded["progress"]["examples_seen"] == {role: dict(c) for role, c in counted.items()}
    assert (recorded["step"], sum(counted["train"].values()), sum(counted["meta"].values())) == (
        3,
        12,
        6,
    )


class Counting(TrainerCallback, ExportableState):
    """A callback that has something to remember."""

    steps = 0

    def on_step_end(self, args, state, control, **_):
        self.steps += 1

    def state(self):
        return {"args": {}, "attributes": {"steps": self.steps}}


def test_a_checkpoint_holds_all_that_transformers_writes(tmp_path):
    """Its parts are written one by one; a later version of transformers may know more of them."""
    given = {
        "max_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "per_device_train_batch_size": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    trainer = {"processing_class": make_tokenizer()}
    make_trainer(
        tmp_path / "ours", make_model(), callbacks=[Counting()], **trainer, **given
    ).train()
    theirs = TrainingArguments(str(tmp_path / "theirs"), **given)
    Trainer(
        tiny("xlm-r").make(), theirs, train_dataset=rows(1), callbacks=[Counting()], **trainer
    ).train()

    names, states = [], []
    for folder in ("ours", "theirs"):
        place = tmp_path / folder / "checkpoint-2"
        names.append({path.name for path in place.iterdir()})
        states.append(json.loads((place / "trainer_state.json").read_text()))
    assert names[1] - names[0] == {"training_args.bin"}  # a pickle; ours is JSON
    assert set(states[1]) == set(states[0])
    assert states[1]["stateful_callbacks"] == states[0]["stateful_callbacks"]
    assert states[0]["stateful_callbacks"]["Counting"]["attributes"] == {"steps": 2}


def test_the_loss_scale_is_restored(tmp_path):
    scales = []
    for checkpoint in (None, str(tmp_path / "checkpoint-3")):
        given = {
            "max_steps": STEPS,
            "save_strategy": "steps",
            "save_steps": 3,
            "max_grad_norm": 0.0,
        }
        trainer = make_trainer(tmp_path, make_model(), **given)
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=4)
        trainer.train(resume_from_checkpoint=checkpoint)
        scales.append(trainer.accelerator.scaler.state_dict())
        scales.append(snapshot(trainer.model))
    assert scales[0] == scales[2]
    assert (scales[0]["scale"], scales[0]["_growth_tracker"]) == (
        16.0,
        2,
    )  # grown after the fourth of six steps
    assert_same(scales[1], scales[3])


def test_counts_are_those_of_the_rows_over_several_interruptions(tmp_path):
    train = {key: rows(number, 2 + 5 * number) for number, key in enumerate(LANGUAGES)}
    given = {
        "train_dataset": train,
        "languages_per_step": 1,
        "sampling_alpha": 1,
        "max_steps": 9,
    }
    given |= {"save_strategy": "steps", "save_steps": 1, "meta_batch_size": 1}
    counted = Counter()
    for resume, stop in ((None, 2), (True, 5), (True, 9)):
        trainer = make_trainer(tmp_path, make_model(), **given)
        take = trainer.training_step

        def training_step(model, inputs, *rest, trainer=trainer, take=take, stop=stop):
            counted.update({key: len(batch["labels"]) for key, batch in inputs["train"].items()})
            trainer.control.should_training_stop = trainer.state.global_step + 1 == stop
            return take(model, inputs, *rest)

        trainer.training_step = training_step
        trainer.train(resume_from_checkpoint=resume)
        assert trainer.state.global_step == stop
        assert {k: n for k, n in trainer.progress.examples_seen["train"].items() if n} == dict(
            counted
        )
    logged = {
        k.removeprefix("examples_seen_"): v
        for k, v in timeless(trainer.state.log_history)[-1].items()
    }
    assert {key: logged[key] for key in counted} == dict(counted)
    assert sum(counted.values()) == 9 * 2


def test_the_rows_of_a_step_may_be_split_in_another_way(tmp_path):
    """As where the run goes on with fewer devices, or on one with less memory."""
    ends = []
    for batch_size, checkpoint in ((1, None), (2, str(tmp_path / "checkpoint-2"))):
        sizes = {"per_device_train_batch_size": batch_size, "meta_batch_size": batch_size}
        sizes["gradient_accumulation_steps"] = 2 // batch_size
        model = make_model(dtype=torch.float64)
        trainer = make_trainer(
            tmp_path, model, max_steps=4, save_strategy="steps", save_steps=2, **sizes
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        ends.append(
            (
                snapshot(model),
                trainer.progress.examples_seen,
                trainer.seen[-1]["train"]["da"]["input_ids"],
            )
        )
    (whole, told, _), (resumed, counted, seen) = ends
    assert (len(seen), counted) == (2, told)
    moved = [
        name
        for name, tensor in whole.items()
        if not torch.allclose(tensor, resumed[name], rtol=1e-7, atol=1e-9)
    ]
    assert moved == []


@pytest.mark.parametrize("step", [1, 3])
def test_the_best_model_is_the_same_after_a_resume(tmp_path, step):
    """The second step is the best one, before or after the interruption."""
    watched = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "max_steps": 4,
    }
    watched |= {
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_score",
        "greater_is_better": True,
    }
    ends = []
    for seed, checkpoint in ((0, None), (1, str(tmp_path / f"checkpoint-{step}"))):

        def score(_):
            return {"score": {1: 0.1, 2: 0.9, 3: 0.2, 4: 0.3}[trainer.state.global_step]}  # noqa: B023

        model = make_model(seed=seed)
        trainer = make_trainer(
            tmp_path, model, eval_dataset=texts(3), compute_metrics=score, **watched
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
        ends.append(snapshot(model))
    assert_same(*ends)
