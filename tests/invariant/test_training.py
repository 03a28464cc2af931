"""What training does to the weights, step by step: which of them move, and where to."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Trainer, TrainingArguments

from tests.training import (
    CONFUSABLE,
    LANGUAGES,
    make_model,
    make_trainer,
    masking,
    moved,
    rows,
    snapshot,
    tensors,
    texts,
)

from .reference import outer_loss

DOUBLE = torch.float64
PLAIN = {"lr_scheduler_type": "constant", "max_grad_norm": 0.0, "adam_epsilon": 1e-6}


def run(tmp_path, model, **given):
    trainer = make_trainer(tmp_path, model, **given)
    trainer.train()
    return trainer


def moves_of_each_step(tmp_path, model, **given):
    """What moved in each optimizer step, and which languages the step held."""
    trainer = make_trainer(tmp_path, model, **given)
    steps, before = [], snapshot(model)
    take = trainer.training_step

    def training_step(model_, inputs, *rest):
        nonlocal before
        found = moved(before, model)
        if found:
            steps.append(found)
        before = snapshot(model)
        return take(model_, inputs, *rest)

    trainer.training_step = training_step
    trainer.train()
    steps.append(moved(before, model))
    return steps, [set(inputs["train"]) for inputs in trainer.seen]


@pytest.mark.parametrize("update_order", ["simultaneous", "alternating"])
@pytest.mark.parametrize("adapter_update", ["meta", "meta+train", "train"])
@pytest.mark.parametrize("languages_per_step", [None, 2])
def test_a_step_moves_theta_and_the_adapters_of_its_languages_alone(
    tmp_path, adapter_update, update_order, languages_per_step
):
    model = make_model(CONFUSABLE)
    method = {
        "adapter_update": adapter_update,
        "update_order": update_order,
        "languages_per_step": languages_per_step,
    }
    steps, languages = moves_of_each_step(
        tmp_path, model, max_steps=4, meta_every=2, weight_decay=0.1, **method
    )
    assert [len(held) for held in languages] == [languages_per_step or 6] * 4
    for number, (found, held) in enumerate(zip(steps, languages, strict=True)):
        own = held if number % 2 == 0 or adapter_update != "meta" else set()
        assert found == {"shared", *own}, number


@pytest.mark.parametrize("language", CONFUSABLE)
def test_training_one_language_leaves_the_others_bitwise_alone(tmp_path, language):
    model = make_model(CONFUSABLE)
    before = snapshot(model)
    run(tmp_path, model, train_dataset=texts(1, [language]), meta_dataset=texts(2, [language]))
    assert moved(before, model) == {"shared", language}


@pytest.mark.parametrize("preset", [None, "paper", "fast"])
def test_over_an_epoch_every_adapter_moves(tmp_path, preset):
    model = make_model(CONFUSABLE)
    before = snapshot(model)
    given = {
        "preset": preset,
        "languages_per_step": 2,
        "max_steps": -1,
        "num_train_epochs": 1,
        "sampling_alpha": 1,
    }
    train = {key: rows(number, 2 + 3 * number) for number, key in enumerate(CONFUSABLE)}
    trainer = run(
        tmp_path, model, train_dataset=train, meta_dataset=texts(2, CONFUSABLE, 2), **given
    )
    assert moved(before, model) == {"shared", *CONFUSABLE}
    for key in CONFUSABLE:  # to the last entry of each adapter
        assert all(
            bool((before[name] != p).any()) for name, p in model.language_parameters(key).items()
        )
    assert trainer.state.global_step == len(trainer.seen) > 3


def adamw(model, batches, own_rate, *, clip=0.0):
    """Joint training by a plain loop: AdamW on the mean loss of each step's languages."""
    own = [p for key in model.languages for p in model.language_parameters(key).values()]
    shared = {"params": list(model.shared_parameters().values())}
    optimizer = torch.optim.AdamW(
        [shared, {"params": own, "lr": own_rate}], lr=1e-2, eps=1e-6, weight_decay=0.0
    )
    for batch in batches:
        optimizer.zero_grad()
        torch.stack(
            [model(language=key, **one).loss for key, one in batch["train"].items()]
        ).mean().backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


def assert_close(found, expected, tolerance=1e-10):
    differences = {
        name: (found[name] - tensor).abs().max().item() for name, tensor in expected.items()
    }
    assert max(differences.values()) < tolerance, max(differences.items(), key=lambda item: item[1])


METHODS = [
    {"adapter_update": "train"},
    {"adapter_update": "meta"},
    {"adapter_update": "meta+train"},
    {"adapter_update": "meta", "meta_every": 2},
    {"preset": "paper"},
    {"preset": "fast"},
]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_theta_moves_as_in_joint_training_while_the_adapters_are_frozen(tmp_path, method):
    model = make_model(dtype=DOUBLE)
    plain, before = copy.deepcopy(model), snapshot(model)
    trainer = run(tmp_path, model, max_steps=4, adapter_learning_rate=0.0, **PLAIN, **method)
    assert moved(before, model) == {"shared"}
    adamw(plain, trainer.seen, 0.0)
    assert_close(tensors(model), tensors(plain))


BASELINES = {
    "joint": ({"config": None}, {}),
    "mono": ({"config": None, "languages": ["sw"]}, {}),
    "joint + adapters": ({}, {"adapter_update": "train", "adapter_learning_rate": 1e-2}),
    "shared adapter": ({"share_adapter": True}, {}),
}


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_baselines_equal_a_plain_loop(tmp_path, name, clip):
    options, method = BASELINES[name]
    model = make_model(dtype=DOUBLE, **options)
    plain, before = copy.deepcopy(model), snapshot(model)
    trainer = run(tmp_path, model, max_steps=4, **{**PLAIN, "max_grad_norm": clip}, **method)
    assert all(set(batch) == {"train"} for batch in trainer.seen)  # no meta text is read
    adamw(plain, trainer.seen, 1e-2, clip=clip)
    assert_close(tensors(model), tensors(plain))
    assert moved(before, model) == {"shared"} | (
        set(LANGUAGES) if name == "joint + adapters" else set()
    )


class Replay(Trainer):
    """`transformers.Trainer` on given batches in a given order."""

    batches: list

    def get_train_dataloader(self):
        return torch.utils.data.DataLoader(self.batches, batch_size=None)


def test_joint_training_equals_that_of_transformers(tmp_path):
    model = make_model(config=None, dtype=DOUBLE)
    plain = copy.deepcopy(model.base_model)
    sizes = {
        "max_steps": 4,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "warmup_steps": 2,
        "max_grad_norm": 0.2,
    }
    trainer = run(tmp_path, model, train_dataset=texts(1, labels=2), **sizes)
    quiet = {
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
    }
    theirs = Replay(
        plain, TrainingArguments(str(tmp_path), **quiet, **sizes), train_dataset=[0] * 4
    )
    # each row has as many labels as any other, so that a mean over languages is one over labels
    several = [inputs["train"].values() for inputs in trainer.seen]
    theirs.batches = [
        {name: torch.cat([one[name] for one in step]) for name in next(iter(step))}
        for step in several
    ]
    theirs.train()
    assert_close(tensors(model.base_model), tensors(plain))
    for ours, others in zip(
        trainer.state.log_history[:-1], theirs.state.log_history[:-1], strict=True
    ):
        for name in ("loss", "grad_norm", "learning_rate", "epoch"):
            assert ours[name] == pytest.approx(others[name], rel=1e-6), name


@sdpa_kernel(SDPBackend.MATH)
def algorithm_1(model, batches, order, clip, rate=0.5):
    """Algorithm 1 by full unrolling and one plain AdamW."""
    shared = list(model.shared_parameters().values())
    own = {key: list(model.language_parameters(key).values()) for key in LANGUAGES}
    every = [*shared, *(p for key in LANGUAGES for p in own[key])]
    optimizer = torch.optim.AdamW(every, lr=1e-2, eps=1e-6, weight_decay=0.0)

    def meta_gradient(key, batch):
        value = outer_loss(model, key, batch["train"], batch["meta"], rate)
        return torch.autograd.grad(value, own[key], allow_unused=True)

    def update(parameters, gradients):
        optimizer.zero_grad()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if clip:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()

    for batch in batches:
        if order == "alternating":
            for key in LANGUAGES:
                update(own[key], meta_gradient(key, batch))
        else:
            outer = [gradient for key in LANGUAGES for gradient in meta_gradient(key, batch)]
        mean = torch.stack(
            [model(language=key, **batch["train"][key]).loss for key in LANGUAGES]
        ).mean()
        inner = torch.autograd.grad(mean, shared, allow_unused=True)
        update(*((shared, inner) if order == "alternating" else (every, [*inner, *outer])))


@pytest.mark.parametrize("order", ["alternating", "simultaneous"])
@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_the_paper_preset_is_algorithm_1(tmp_path, order, clip):
    model = make_model(dtype=DOUBLE)
    plain, before = copy.deepcopy(model), snapshot(model)
    method = {"preset": "paper", "update_order": order, "inner_learning_rate": 0.5}
    trainer = run(tmp_path, model, max_steps=3, **{**PLAIN, "max_grad_norm": clip}, **method)
    assert moved(before, model) == {"shared", *LANGUAGES}
    algorithm_1(plain, trainer.seen, order, clip)
    assert_close(tensors(model), tensors(plain), 1e-9)
    assert min(entry["meta_indirect_ratio"] for entry in trainer.state.log_history[:-1]) > 0.01


def test_the_order_of_the_updates_matters(tmp_path):
    """Were it not so, the test above would show nothing about the order."""
    ends = []
    for order in ("alternating", "simultaneous"):
        model = make_model(dtype=DOUBLE)
        run(tmp_path, model, max_steps=2, preset="paper", update_order=order, **PLAIN)
        ends.append(torch.cat([p.flatten() for p in model.shared_parameters().values()]))
    assert (ends[0] - ends[1]).abs().max() > 1e-6


def test_an_inner_rate_of_none_is_the_present_rate_of_theta(tmp_path):
    ends = []
    for given in ({"inner_learning_rate": None}, {"inner_learning_rate": 1e-2}):
        model = make_model(dtype=DOUBLE)
        run(tmp_path, model, adapter_learning_rate=0.5, **PLAIN, **given)
        ends.append(snapshot(model))
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


class MaskedByRow:
    """Masks a row by its own content and a seed, so that the mask does not depend on the batch it
    comes in.
    """

    def __call__(self, examples):
        ids = torch.tensor([example["input_ids"] for example in examples])
        chosen = []
        for row in ids:
            draw = torch.Generator().manual_seed(5 + int(row.sum()))
            chosen.append(torch.rand(row.shape, generator=draw) < 0.4)
        mask = torch.stack(chosen)
        mask[:, 0] = True
        return {"input_ids": ids.masked_fill(mask, 2), "labels": ids.masked_fill(~mask, -100)}


ACCUMULATED = [
    {"meta_gradient": "exact"},
    {"meta_gradient": "forward_mode"},
    {"meta_gradient": "first_order"},
    {"meta_gradient": "finite_difference", "finite_difference_radius": 1e-4},
    {
        "meta_gradient": "exact",
        "lookahead": "per_language",
        "update_order": "alternating",
        "meta_every": 2,
    },
    {"inner_optimizer": "adam", "meta_gradient": "exact", "languages_per_step": 2},
    {"adapter_update": "train"},
]


@pytest.mark.parametrize("method", ACCUMULATED, ids=str)
def test_accumulation_equals_one_large_batch(tmp_path, method):
    ends, losses = [], []
    for size, times in ((4, 1), (2, 2)):
        model = make_model(dtype=DOUBLE)
        given = {
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": times,
            "data_collator": MaskedByRow(),
        }
        trainer = run(
            tmp_path,
            model,
            max_steps=3,
            train_dataset=texts(1, count=12),
            **PLAIN,
            **given,
            **method,
        )
        assert len(trainer.seen) == 3 * times
        ends.append(snapshot(model))
        losses.append([entry["loss"] for entry in trainer.state.log_history[:-1]])
    counts = {
        int((part["labels"] != -100).sum())
        for part in (seen["train"]["te"] for seen in trainer.seen if "te" in seen["train"])
    }
    assert len(counts) > 1  # otherwise plain means would do
    assert_close(
        ends[1], ends[0], 1e-5 if method.get("meta_gradient") == "finite_difference" else 1e-9
    )
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name, tensor in found.items() if not torch.equal(tensor, expected[name])] == []


def test_evaluation_and_saving_leave_the_run_alone(tmp_path):
    ends = []
    watched = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "eval_on_start": True,
        "save_strategy": "steps",
        "save_steps": 1,
    }
    for given in ({}, {**watched, "eval_dataset": texts(3)}):
        model = make_model(dropout=0.1)
        run(tmp_path, model, max_steps=3, data_collator=masking(), **given)
        ends.append(snapshot(model))
    assert_same(*ends)


def test_a_seed_decides_everything(tmp_path):
    ends = []
    for seed in (1, 1, 2):
        model = make_model(dropout=0.1)
        run(tmp_path, model, seed=seed, data_collator=masking())
        ends.append(snapshot(model))
    assert_same(*ends[:2])
    assert not all(torch.equal(tensor, ends[2][name]) for name, tensor in ends[0].items())
