"""A checkpoint of another run is refused by name; what may change takes effect."""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig
from torch import nn
from torch.optim.lr_scheduler import StepLR
from transformers import AutoModelForMaskedLM, TrainerCallback

from hf_meta_adapters import (
    BottleneckConfig,
    MetaAdapterTrainingArguments,
    get_language_model,
)
from hf_meta_adapters.errors import CheckpointError
from hf_meta_adapters.training._collator_settings import probe
from hf_meta_adapters.training._resumed_arguments import CLASSES
from tests.tiny import tiny
from tests.training import (
    LANGUAGES,
    make_model,
    make_tokenizer,
    make_trainer,
    masking,
    snapshot,
    texts,
)

from .conftest import SAVING
from .test_checkpoints import clear

TRAIN, META = texts(1), texts(2)


def go_on(folder, model=None, kind=None, **given):
    """Resume a run from its last checkpoint."""
    trainer = make_trainer(folder, model or make_model(seed=3), **{**SAVING, **given})
    trainer.train(resume_from_checkpoint=True)
    return trainer


def refused(folder, said, model=None, **given):
    with pytest.raises(CheckpointError, match=said) as error:
        go_on(folder, model, **given)
    assert clear(error.value), error.value
    assert "model.load_weights(" in str(error.value)


def changed(language, number, column, value):
    data = copy.deepcopy(TRAIN)
    data[language][number][column][0] = value
    return data


OTHER_DATA = {
    "other rows": (
        {"train_dataset": texts(5)},
        {f"content of the train data of {language!r}" for language in LANGUAGES},
    ),
    "languages swapped": (
        {"train_dataset": {**TRAIN, "te": TRAIN["da"], "da": TRAIN["te"]}},
        {"content of the train data of 'te'", "content of the train data of 'da'"},
    ),
    "another order": (
        {"train_dataset": {**TRAIN, "da": TRAIN["da"][::-1]}},
        {"content of the train data of 'da'"},
    ),
    "one token": (
        {"train_dataset": changed("te", 7, "input_ids", 0)},
        {"content of the train data of 'te'"},
    ),
    "one label": (
        {"train_dataset": changed("te", 0, "labels", 60)},
        {"content of the train data of 'te'"},
    ),
    "other meta data": (
        {"meta_dataset": {**META, "da": texts(5)["da"]}},
        {"content of the meta data of 'da'"},
    ),
    "roles swapped": (
        {"train_dataset": META, "meta_dataset": TRAIN},
        {
            f"content of the {role} data of {key!r}"
            for role in ("train", "meta")
            for key in LANGUAGES
        },
    ),
}


@pytest.mark.parametrize("what", OTHER_DATA)
def test_other_data_of_the_same_size_are_refused(run_dir, what):
    given, names = OTHER_DATA[what]
    with pytest.raises(CheckpointError) as error:
        go_on(run_dir, **given)
    assert clear(error.value), error.value
    assert set(re.findall("`(content of [^`]*)` was", str(error.value))) == names


def test_equal_data_in_another_container_are_the_same(run_dir):
    tables = {key: Dataset.from_list(several) for key, several in TRAIN.items()}
    with_ids = {
        key: table.add_column("id", [f"{key}{row}" for row in range(8)])
        for key, table in tables.items()
    }
    end = snapshot(go_on(run_dir, max_steps=5).model)
    for data in (tables, with_ids):
        folder = shutil.copytree(run_dir, run_dir.with_name("copy"), dirs_exist_ok=True)
        shutil.rmtree(folder / "checkpoint-5", ignore_errors=True)
        found = snapshot(go_on(folder, train_dataset=data, max_steps=5).model)
        assert all(torch.equal(found[name], tensor) for name, tensor in end.items())


def test_another_beginning_of_a_stream_is_refused(tmp_path):
    def streams(data):
        return {
            key: IterableDataset.from_generator(lambda key=key: iter(data[key])) for key in data
        }

    given = {**SAVING, "meta_dataset": streams(META)}
    make_trainer(tmp_path, make_model(), train_dataset=streams(TRAIN), **given).train()
    go_on(tmp_path, train_dataset=streams(TRAIN), meta_dataset=given["meta_dataset"])
    said = "`content of the train data of 'te'` was '"
    refused(tmp_path, said, train_dataset=streams(changed("te", 3, "input_ids", 5)), **given)


class Augmented:
    """Rows that differ each time they are read, also in one process."""

    def __init__(self, several):
        self.several = several
        self.generator = np.random.default_rng()

    def __len__(self):
        return len(self.several)

    def __getitem__(self, number):
        row = copy.deepcopy(self.several[number])
        drawn = self.generator.integers(5, 60, len(row["input_ids"]))
        return {**row, "input_ids": drawn.tolist()}


def test_rows_that_differ_each_time_resume_with_a_word(tmp_path):
    def data():
        return {**TRAIN, "da": Augmented(TRAIN["da"])}

    make_trainer(tmp_path, make_model(), train_dataset=data(), **SAVING).train()
    said = "were not compared: content of the train data of 'da'"
    with pytest.warns(UserWarning, match=said):
        go_on(tmp_path, train_dataset=data(), max_steps=5)


def test_other_selection_data_are_refused_where_the_best_score_is_one_of_them(tmp_path):
    watched = {"eval_strategy": "steps", "eval_steps": 2}
    best = {"metric_for_best_model": "eval_loss"}
    make_trainer(tmp_path, make_model(), eval_dataset=texts(3), **SAVING, **watched, **best).train()
    said = "`content of the eval data of 'da'` was"
    refused(tmp_path, said, eval_dataset=texts(4), **watched, **best)
    refused(
        tmp_path,
        "`metric_for_best_model` was 'eval_loss' and is 'eval_da_loss'",
        eval_dataset=texts(3),
        **watched,
        metric_for_best_model="eval_da_loss",
    )
    go_on(tmp_path, eval_dataset=texts(4), **watched)  # no best score is kept


# Another value of each argument that must stay, with what else it needs; two need more than that.
OTHER_ARGUMENTS = {
    "preset": ({"preset": "paper"}, "was None and is 'paper'"),
    "meta_gradient": ({"meta_gradient": "exact"}, "was 'finite_difference' and is 'exact'"),
    "lookahead": ({"lookahead": "none"}, "was 'shared' and is 'none'"),
    "meta_languages": (
        {"meta_languages": "others", "lookahead": "per_language"},
        "was 'all' and is 'others'",
    ),
    "meta_languages_per_step": (
        {"meta_languages_per_step": 2, "lookahead": "per_language"},
        "was None and is 2",
    ),
    "inner_steps": (
        {"inner_steps": 2, "lookahead": "per_language"},
        "was 1 and is 2",
    ),
    "finite_difference_scheme": (
        {"finite_difference_scheme": "one_sided"},
        "was 'central' and is 'one_sided'",
    ),
    "finite_difference_radius": ({"finite_difference_radius": 0.1}, "was None and is 0.1"),
    "max_indirect_ratio": ({"max_indirect_ratio": 0.5}, "was None and is 0.5"),
    "indirect_ratio": ({"indirect_ratio": 0.5}, "was None and is 0.5"),
    "indirect_ratio_scope": (
        {"indirect_ratio_scope": "language"},
        "was 'all' and is 'language'",
    ),
    "shared_update": ({"shared_update": "project"}, "was 'mean' and is 'project'"),
    "shared_update_groups": ({"shared_update_groups": "layer"}, "was 'model' and is 'layer'"),
    "surgery_gradients": (
        {"shared_update": "pcgrad", "surgery_gradients": "keep"},
        "was 'auto' and is 'keep'",
    ),
    "mixed_rows": ({"mixed_rows": 0.5}, "was 1.0 and is 0.5"),
    "mixed_languages": ({"mixed_languages": 0.5}, "was 1.0 and is 0.5"),
    "inner_optimizer": ({"inner_optimizer": "adam"}, "was 'sgd' and is 'adam'"),
    "inner_learning_rate": ({"inner_learning_rate": 0.1}, "was 0.01 and is 0.1"),
    "embedding_learning_rate": ({"embedding_learning_rate": 0.1}, "was None and is 0.1"),
    "adapter_update": ({"adapter_update": "meta+train"}, r"was 'meta' and is 'meta\+train'"),
    "update_order": ({"update_order": "alternating"}, "was 'simultaneous' and is 'alternating'"),
    "meta_every": ({"meta_every": 2}, "was 1 and is 2"),
    "languages_per_step": ({"languages_per_step": 2}, "was None and is 2"),
    "sampling": (
        {"sampling": "cooldown", "languages_per_step": 2},
        "was 'temperature' and is 'cooldown'",
    ),
    "sampling_alpha": ({"sampling_alpha": 0.3}, "was 0.7 and is 0.3"),
    "sampling_max_epochs": (
        {"sampling": "unimax", "sampling_max_epochs": 2, "languages_per_step": 1},
        "was None and is 2",
    ),
    "sampling_end_alpha": (
        {"sampling": "cooldown", "sampling_end_alpha": 0.9, "languages_per_step": 2},
        "was None and is 0.9",
    ),
    "language_weights": ({"language_weights": "famo"}, "was 'uniform' and is 'famo'"),
    "language_weights_rate": (
        {"language_weights": "famo", "language_weights_rate": 0.5},
        "was None and is 0.5",
    ),
    "label_smoothing_factor": ({"label_smoothing_factor": 0.1}, "was 0.0 and is 0.1"),
    "label_names": ({"label_names": ["labels"]}, r"was None and is \['labels'\]"),
    "remove_unused_columns": ({"remove_unused_columns": False}, "was True and is False"),
    "neftune_noise_alpha": ({"neftune_noise_alpha": 5.0}, "was None and is 5.0"),
    "optim": ({"optim": "adafactor"}, "and is 'adafactor'"),
    "optim_args": ({"optim_args": "eps=1e-3"}, "was None and is 'eps=1e-3'"),
    "seed": ({"seed": 5}, "was 42 and is 5"),
    "data_seed": ({"data_seed": 5}, "was None and is 5"),
    "bf16": ({"bf16": True}, "was False and is True"),
    "length_column_name": ({"length_column_name": "words"}, "was 'length' and is 'words'"),
    "train_sampling_strategy": (
        {"train_sampling_strategy": "group_by_length"},
        "was 'random' and is 'group_by_length'",
    ),
    "group_by_length": ({"group_by_length": True}, "was False and is True"),
}
_NEEDS_AN_ACCELERATOR = {"fp16"}
_ONLY_OF_TRANSFORMERS_4 = {"adafactor"}
_HERE = {field.name for field in dataclasses.fields(MetaAdapterTrainingArguments)}


def test_every_argument_that_must_stay_is_tried():
    untried = set(CLASSES["stays"]) - set(OTHER_ARGUMENTS)
    assert untried == _NEEDS_AN_ACCELERATOR | _ONLY_OF_TRANSFORMERS_4 | set(OTHER_LOOPS)


def test_a_share_that_is_chosen_is_another_one(run_dir, tmp_path):
    refused(run_dir, "`mixed_rows` was 1.0 and is 'auto'", mixed_rows="auto")
    make_trainer(tmp_path, make_model(), mixed_rows="auto", **SAVING).train()
    refused(tmp_path, "`mixed_rows` was 'auto' and is 0.5", mixed_rows=0.5)


@pytest.mark.parametrize("name", sorted(_HERE.intersection(OTHER_ARGUMENTS)))
def test_another_method_is_refused_by_name(run_dir, name):
    given, said = OTHER_ARGUMENTS[name]
    refused(
        run_dir, f"`{name}` {said}" if said.startswith("was") else f"`{name}` .*{said}", **given
    )


def test_another_argument_is_told_once(run_dir):
    """And `length of the run`, which only a plan records, not beside the plan's name."""
    with pytest.raises(CheckpointError) as refusal:
        go_on(run_dir, sampling="cooldown", languages_per_step=2, seed=5)
    told = re.findall(r"`(\S[^`]*)` was", str(refusal.value))
    assert sorted(told) == ["languages_per_step", "sampling", "seed"]


def test_a_planned_run_of_another_length_is_refused(tmp_path):
    given = {"sampling": "cooldown", "languages_per_step": 2, "sampling_alpha": 0.0}
    make_trainer(tmp_path, make_model(), **{**SAVING, **given}).train()
    longer = SAVING["max_steps"] + 4
    said = f"`length of the run` was .*{SAVING['max_steps']}.* and is .*{longer}"
    refused(tmp_path, said, max_steps=longer, **given)


LOOPS = {
    "languages_per_step": 1,
    "adapter_update": "train",
    "reptile_steps": 2,
    "meta_dataset": None,
}
OTHER_LOOPS = {
    "reptile_steps": ({"reptile_steps": 1}, "was 2 and is 1"),
    "reptile_rate": ({"reptile_rate": 0.5}, "was None and is 0.5"),
}


@pytest.mark.parametrize("name", OTHER_LOOPS)
def test_other_loops_of_sequential_reptile_are_refused_by_name(tmp_path, name):
    make_trainer(tmp_path, make_model(), **SAVING, **LOOPS).train()
    given, said = OTHER_LOOPS[name]
    refused(tmp_path, f"`{name}` {said}", **{**LOOPS, **given})


def without_first_dropout(model):
    next(module for module in model.modules() if isinstance(module, nn.Dropout)).p = 0.25
    return model


def frozen(model):
    model.train_only("te", "da", "zh-Hant")
    return model


def swish(model):
    model.base_model.config.hidden_act = "silu"
    return model


OTHER_MODELS = {
    "dropout": (
        lambda: make_model(dropout=0.1),
        r"`config.hidden_dropout_prob` was 0.0 and is 0.1",
    ),
    "the dropout of one module": (
        lambda: without_first_dropout(make_model()),
        r"`dropout modules by probability` was .* and is .*'0.25': 1",
    ),
    "an entry of the configuration": (
        lambda: swish(make_model()),
        "`config.hidden_act` was 'gelu' and is 'silu'",
    ),
    "the width of adapters": (
        lambda: make_model(config=BottleneckConfig(bottleneck_size=5)),
        "`adapter.bottleneck_size` was 3 and is 5",
    ),
    "what is trained": (
        lambda: frozen(make_model()),
        "`trained parameters of θ` was '26 tensors, digest .* and is '0 tensors",
    ),
    "precision": (
        lambda: make_model(dtype=torch.float64),
        r"`type of θ` was \['torch.float32'\] and is \['torch.float64'\]",
    ),
}


@pytest.mark.parametrize("what", OTHER_MODELS)
def test_another_model_is_refused_by_name(run_dir, what):
    make, said = OTHER_MODELS[what]
    refused(run_dir, said, make())


@pytest.mark.parametrize(
    ("name", "value"), [("lora_alpha", 4), ("lora_dropout", 0.3), ("use_rslora", True)]
)
def test_another_setting_of_an_adapter_is_refused_by_name(tmp_path, name, value):
    def model(**more):
        return make_model(config=LoraConfig(r=2, target_modules=["query"], **more))

    make_trainer(tmp_path, model(), **{**SAVING, "max_steps": 2}).train()
    refused(tmp_path, f"`adapter.{name}` was .* and is {value}", model(**{name: value}))


def over_frozen(base):
    lora = LoraConfig(r=2, target_modules=["query"])
    return get_language_model(base, BottleneckConfig(bottleneck_size=3), LANGUAGES, shared=lora)


def test_another_frozen_base_is_refused_where_it_is_only_named(tmp_path):
    def model(seed):
        tiny("xlm-r").make(dropout=0.0, seed=seed).save_pretrained(tmp_path / "base")
        return over_frozen(AutoModelForMaskedLM.from_pretrained(tmp_path / "base"))

    make_trainer(tmp_path / "run", model(0), **{**SAVING, "max_steps": 2}).train()
    go_on(tmp_path / "run", model(0), max_steps=3)
    refused(tmp_path / "run", "`weights of the frozen base` was", model(1))


def test_a_frozen_base_without_a_name_comes_from_the_checkpoint(tmp_path):
    def model(seed):
        return make_model(shared=LoraConfig(r=2, target_modules=["query"]), seed=seed)

    first, method = model(0), {"meta_gradient": "first_order"}
    make_trainer(tmp_path, first, **SAVING, **method).train()
    shutil.rmtree(tmp_path / "checkpoint-4")
    assert_same(snapshot(go_on(tmp_path, model(1), **method).model), snapshot(first))


def other_words():
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["another"])
    return tokenizer


OTHER_BATCHES = {
    "another share of masks": (
        {"data_collator": dataclasses.replace(masking(), mlm_probability=0.2)},
        "`data_collator.mlm_probability` was 0.5 and is 0.2",
    ),
    "another collator": (
        {"data_collator": lambda several: masking()(several)},
        "`type of `data_collator`` was 'DataCollatorForLanguageModeling' and is 'function'",
    ),
    "another vocabulary": (
        {"processing_class": other_words()},
        "`vocabulary of the tokenizer` was '64 tokens.* and is '65 tokens",
    ),
    "a loss of the user's": (
        {"compute_loss_func": lambda outputs, *_, **__: outputs.logits.mean()},
        "`compute_loss_func` was None and is '<lambda>'",
    ),
}


@pytest.mark.parametrize("what", OTHER_BATCHES)
def test_other_batches_are_refused_by_name(tmp_path, what):
    given, said = OTHER_BATCHES[what]
    usual = {"data_collator": masking(), "processing_class": make_tokenizer()}
    make_trainer(tmp_path, make_model(), **{**SAVING, "max_steps": 2}, **usual).train()
    go_on(tmp_path, **usual, max_steps=3)
    refused(tmp_path, said, **{**usual, **given})


def together(several, shift=0):
    """A collator that is a function, as users write them."""
    batch = {name: torch.tensor([row[name] for row in several]) for name in several[0]}
    return {**batch, "attention_mask": batch["attention_mask"] - shift}


class Counting:
    """A collator that counts its calls, and draws from a generator of its own."""

    def __init__(self, shift=0):
        self.calls, self.shift = 0, shift
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, several):
        self.calls += 1
        batch = together(several, self.shift)
        drawn = torch.randint(5, 60, (len(several), 1), generator=self.generator)
        return {**batch, "input_ids": torch.cat([drawn, batch["input_ids"][:, 1:]], 1)}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda: together, lambda: lambda several: together(several, 1)),
        (lambda: functools.partial(together), lambda: functools.partial(together, shift=1)),
        (Counting, lambda: Counting(1)),
    ],
)
def test_another_function_that_makes_batches_is_refused(tmp_path, before, after):
    given = {**SAVING, "max_steps": 2, "data_collator": before()}
    make_trainer(tmp_path, make_model(), **given).train()
    go_on(tmp_path, data_collator=before(), max_steps=3)
    refused(tmp_path, "`content of a batch` was '", data_collator=after())


def test_a_collator_is_not_moved_on():
    collator = Counting()
    assert probe(collator, TRAIN["da"]) == probe(collator, TRAIN["da"]) is not None
    assert collator.calls == 0


def test_a_collator_that_differs_each_time_resumes_with_a_word(tmp_path):
    def collator(several):
        # Every token of the batch: two draws must never agree by chance.
        batch = together(several)
        drawn = np.random.default_rng().integers(5, 60, batch["input_ids"].shape)
        return {**batch, "input_ids": torch.from_numpy(drawn)}

    make_trainer(tmp_path, make_model(), **SAVING, data_collator=collator).train()
    with pytest.warns(UserWarning, match="were not compared: content of a batch"):
        go_on(tmp_path, data_collator=collator, max_steps=5)


def test_a_trainer_that_trains_again_goes_on(tmp_path):
    """With an optimizer whose settings have moved: the record is what it was made with."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["steps"] = 0

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer=None, **_):
            optimizer.param_groups[0]["steps"] += 1

    trainer = make_trainer(
        tmp_path, model, optimizers=(optimizer, None), callbacks=[Count()], **SAVING
    )
    trainer.train()
    end = snapshot(model)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same(snapshot(model), end)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


class Rates(TrainerCallback):
    """Sets what an optimizer step takes, step by step, to numbers worked out by hand."""

    def __init__(self, first, rates, **settings):
        self.first, self.rates, self.settings = first, rates, settings

    def on_step_begin(self, args, state, control, optimizer=None, **_):
        step = state.global_step
        if step < self.first:
            return
        for group, (rate, decays) in zip(optimizer.param_groups, GROUPS, strict=True):
            for name, value in self.settings.items():
                if name != "weight_decay" or decays:
                    group[name] = value
            if self.rates is not None:
                group["lr"] = self.rates(rate, step)


# θ and φ, each with and without weight decay, as the Trainer makes groups
GROUPS = [("shared", True), ("shared", False), ("adapter", True), ("adapter", False)]
STEPS = 4


def linear(shared, adapter, steps=STEPS):
    return lambda owner, step: (
        {"shared": shared, "adapter": adapter}[owner] * (max(0, steps - step) / max(1, steps))
    )


ALLOWED = {
    "learning_rate": ({"learning_rate": 0.03}, linear(0.03, 0.06), {}),
    "adapter_learning_rate": ({"adapter_learning_rate": 0.5}, linear(0.01, 0.5), {}),
    "weight_decay": ({"weight_decay": 0.3}, None, {"weight_decay": 0.3}),
    "adam_beta1": ({"adam_beta1": 0.5}, None, {"betas": (0.5, 0.999)}),
    "adam_epsilon": ({"adam_epsilon": 0.01}, None, {"eps": 0.01}),
    "lr_scheduler_type": (
        {"lr_scheduler_type": "constant"},
        lambda owner, step: {"shared": 0.01, "adapter": 0.02}[owner],
        {},
    ),
    "warmup_steps": (
        {"warmup_steps": 3},
        lambda owner, step: {"shared": 0.01, "adapter": 0.02}[owner] * ({2: 2 / 3, 3: 1.0}[step]),
        {},
    ),
}


def ends(tmp_path, given, callback):
    """The end of a whole run with a callback, and of one that was resumed with other arguments.

    The callback does nothing before the second step, after which the other run goes on.
    """
    start = {**SAVING, "weight_decay": 0.1}
    whole = make_trainer(tmp_path / "whole", make_model(dropout=0.1), callbacks=[callback], **start)
    whole.train()

    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "run" / "checkpoint-2")
    model = make_model(dropout=0.1, seed=1)
    return whole, make_trainer(tmp_path / "run", model, **{**start, **given})


@pytest.mark.parametrize("name", ALLOWED)
def test_what_may_change_takes_effect(tmp_path, name):
    given, rates, settings = ALLOWED[name]
    whole, resumed = ends(tmp_path, given, Rates(2, rates, **settings))
    with pytest.warns(UserWarning, match=f"From here on, these hold: `{name}` was"):
        resumed.train(resume_from_checkpoint=True)
    assert_same(snapshot(resumed.model), snapshot(whole.model))


def test_a_longer_run_follows_its_own_schedule(tmp_path):
    """Without a word: nobody makes a run longer by accident."""

    def rates(owner, step):
        return linear(0.01, 0.02, steps=4 if step < 2 else 6)(owner, step)

    make_trainer(tmp_path / "run", make_model(dropout=0.1), **SAVING, weight_decay=0.1).train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    longer = {**SAVING, "max_steps": 6, "weight_decay": 0.1}
    whole = make_trainer(
        tmp_path / "whole", make_model(dropout=0.1), callbacks=[Rates(0, rates)], **longer
    )
    whole.train()
    resumed = go_on(tmp_path / "run", make_model(dropout=0.1, seed=1), **longer)
    assert_same(snapshot(resumed.model), snapshot(whole.model))


def assert_same(found, expected):
    assert [key for key, tensor in expected.items() if not torch.equal(found[key], tensor)] == []


def test_the_arguments_that_were_used_are_recorded(run_dir):
    with pytest.warns(UserWarning, match="`learning_rate` was 0.01 and is 0.03"):
        trainer = go_on(run_dir, learning_rate=0.03, max_steps=8)
    logged = [line["learning_rate"] for line in trainer.state.log_history if "loss" in line]
    assert logged[4:] == pytest.approx([0.03 * left / 8 for left in (4, 3, 2, 1)])
    assert '"learning_rate": 0.03' in (run_dir / "checkpoint-8/training_args.json").read_text()


def test_what_a_callback_has_set_stays_where_nothing_changed(tmp_path):
    """The settings of a run are those that it was made with."""

    class Later(TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer=None, **_):
            if state.global_step == 1:
                for group in optimizer.param_groups:
                    group["weight_decay"] = 0.7

    whole = make_trainer(tmp_path / "whole", make_model(), callbacks=[Later()], **SAVING)
    whole.train()
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "run" / "checkpoint-2")
    resumed = go_on(tmp_path / "run", callbacks=[Later()])
    assert_same(snapshot(resumed.model), snapshot(whole.model))


def sgd(rate, step_size=None, **settings):
    def make(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, **settings)
        schedule = None
        if step_size is not None:
            schedule = StepLR(optimizer, step_size)
        return {"optimizers": (optimizer, schedule)}

    return make


def test_a_rate_of_an_optimizer_that_was_given_takes_effect(tmp_path):
    def train(folder, rate, steps, checkpoint=None):
        model = make_model()
        given = {**SAVING, "max_steps": steps, "lr_scheduler_type": "constant"}
        trainer = make_trainer(tmp_path / folder, model, **given, **sgd(rate)(model))
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer

    train("run", 0.1, 2)
    resumed = train("run", 0.3, 4, True)
    assert {group["lr"] for group in resumed.optimizer.param_groups} == {0.3}
    assert resumed.state.log_history[-2]["learning_rate"] == 0.3


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (sgd(0.1, 3), sgd(0.2, 3), r"under a schedule that is a function of the step\. Found"),
        (sgd(0.1, 3), sgd(0.1, 2), "`schedule.step_size` was 3 and is 2"),
        (sgd(0.1), sgd(0.1, 2), "`schedule` was 'LambdaLR' and is 'StepLR'"),
        (
            sgd(0.1, momentum=0.9),
            sgd(0.1, momentum=0.9, nesterov=True),
            "`optimizer.nesterov of group 0` was False and is True",
        ),
    ],
)
def test_a_setting_that_goes_with_the_state_is_refused_by_name(tmp_path, before, after, said):
    model = make_model()
    make_trainer(tmp_path, model, **{**SAVING, "max_steps": 2}, **before(model)).train()
    model = make_model()
    trainer = make_trainer(tmp_path, model, **SAVING, **after(model))
    with pytest.raises(CheckpointError, match=said) as error:
        trainer.train(resume_from_checkpoint=True)
    assert clear(error.value), error.value


@pytest.mark.filterwarnings("ignore:The run resumes from .*lr_scheduler_kwargs:UserWarning")
def test_another_plateau_is_refused(tmp_path):
    given = {**SAVING, "eval_strategy": "steps", "eval_steps": 2, "eval_dataset": texts(3)}
    given |= {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "eval_loss"}
    make_trainer(tmp_path, make_model(), **{**given, "max_steps": 2}).train()
    refused(
        tmp_path,
        "`schedule.patience` was 10 and is 2",
        **given,
        lr_scheduler_kwargs={"patience": 2},
    )


def test_another_version_of_a_library_is_allowed_with_a_word(run_dir, monkeypatch):
    monkeypatch.setattr(
        "hf_meta_adapters.training._run_settings.version", lambda name: f"0.1 of {name}"
    )
    with pytest.warns(
        UserWarning, match="round in another way: `torch` was .* and is '0.1 of torch"
    ):
        go_on(run_dir)
