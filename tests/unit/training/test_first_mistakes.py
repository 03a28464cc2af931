"""What somebody who knows `transformers.Trainer` may try, and is told."""

from __future__ import annotations

import logging

import datasets
import pytest
import torch
from transformers import BatchEncoding

from hf_meta_adapters import MetaAdapterTrainer
from hf_meta_adapters.errors import ConfigurationError, DataError, LanguageError
from tests.training import LANGUAGES, make_model, make_tokenizer, make_trainer, rows, texts

TABLE = datasets.Dataset.from_list(rows(1))
COLUMNS = {name: [row[name] for row in rows(1)] for name in rows(1)[0]}
DATA = {
    "a list": (rows(1), DataError, "must be a dict from language to data. Found a `list`"),
    "a table": (TABLE, DataError, "must be a dict from language to data. Found a `Dataset`"),
    "a stream": (TABLE.to_iterable_dataset(), DataError, "Found a `IterableDataset`"),
    "a path": ("data/", DataError, "Found a `str`"),
    "no language": ({}, DataError, "`train_dataset` must be .* Found an empty one"),
    "splits": (
        datasets.DatasetDict({"train": TABLE, "test": TABLE}),
        DataError,
        r"""Found the splits \['train', 'test'\]. Pass .*`train_dataset={"te": data\["train"\]}`""",
    ),
    "splits of a language": (
        {"te": datasets.DatasetDict({"train": TABLE})},
        DataError,
        r"""`train_dataset\['te'\]` must be a dataset. Found the splits .*`data\["train"\]`""",
    ),
    "paths": ({"te": "te.txt"}, DataError, "Found the text 'te.txt'. Load the data first"),
    "columns": (
        {"te": BatchEncoding(COLUMNS)},
        DataError,
        r"Found a `BatchEncoding` of \['input_ids'.*Make rows of the columns: `datasets.Dataset",
    ),
    "letter case": (
        {"TE": rows(1), "zh-hant": rows(2)},
        LanguageError,
        "Found 'TE', 'zh-hant'. Did you mean 'te'. Did you mean 'zh-Hant'",
    ),
    "another language": (
        {"te": rows(1), "sw": rows(2)},
        LanguageError,
        r"""Found 'sw'. Add it: `model.add_language\("sw"\)`""",
    ),
}


@pytest.mark.parametrize("what", DATA)
def test_training_data_of_another_kind(tmp_path, what):
    data, error, message = DATA[what]
    with pytest.raises(error, match=message):
        make_trainer(tmp_path, make_model(), train_dataset=data, meta_dataset=None)


def test_data_of_datasets_by_language_is_taken_as_it_is(tmp_path):
    train = datasets.DatasetDict(
        {key: datasets.Dataset.from_list(one) for key, one in texts(1).items()}
    )
    make_trainer(tmp_path, make_model(), train_dataset=train).train()


class Metric:
    """As `evaluate.load` returns it."""

    def compute(self):
        return {}


CALLS = {
    "model_init": (make_model, "`model_init` must be left out, and a `model` passed"),
    "tokenizer": (make_tokenizer(), "`tokenizer` is the old name of `processing_class`"),
    "callbacks": (print, r"`callbacks` must be a list of callbacks. .*Pass `callbacks=\[...\]`"),
    "optimizers": (
        torch.optim.SGD([torch.zeros(1)], lr=1.0),
        r"must be a pair of an optimizer and a schedule. Found a `SGD`.*\(optimizer, None\)",
    ),
    "optimizer_cls_and_kwargs": (torch.optim.SGD, "must be a pair of a class and a dict"),
    "data_collator": (
        dict.fromkeys(LANGUAGES, len),
        r"must be one function for the rows of all languages. Found a `dict` of \['te', 'da'",
    ),
    "compute_metrics": (Metric(), "Found a `Metric`. Pass a function that calls its `compute`"),
    "preprocess_logits_for_metrics": ("argmax", "must be a function. Found a `str`"),
    "compute_loss_func": (1.0, "must be a function. Found a `float`"),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_else_the_trainer_is_called_with(tmp_path, name):
    given, message = CALLS[name]
    args = make_trainer(tmp_path, make_model()).args
    with pytest.raises(ConfigurationError, match=message) as error:
        MetaAdapterTrainer(make_model(), args, train_dataset=texts(1), **{name: given})
    assert str(error.value).startswith(f"`{name}`")


def test_a_search_is_refused_without_a_model_as_well(tmp_path):
    trainer = make_trainer(tmp_path, make_model())
    with pytest.raises(ConfigurationError, match="make a new model, new arguments and a new Tr"):
        MetaAdapterTrainer(model_init=make_model, args=trainer.args, train_dataset=texts(1))
    with pytest.raises(ConfigurationError, match=r"^`hyperparameter_search` cannot be used"):
        trainer.hyperparameter_search(n_trials=1)


def test_a_subclass_may_take_such_an_argument(tmp_path):
    class Mine(MetaAdapterTrainer):
        def __init__(self, *args, tokenizer, **kwargs):
            super().__init__(*args, processing_class=tokenizer, **kwargs)

    args = make_trainer(tmp_path, make_model()).args
    trainer = Mine(make_model(), args, train_dataset=texts(1), tokenizer=make_tokenizer())
    assert trainer.processing_class is not None


ROWS = {
    "no padding": (
        [{"input_ids": [5] * (1 + row % 3), "labels": [5] * (1 + row % 3)} for row in range(9)],
        "masked_lm",
        "`default_data_collator` failed: .*pass the tokenizer as `processing_class`",
    ),
    "words as labels": (
        [{"input_ids": [5, 6], "label": "good"} for _ in range(9)],
        "sequence_classification",
        "Give `label` as a number",
    ),
    "another name of the labels": (
        [{"input_ids": [5, 6], "target": 1} for _ in range(9)],
        "sequence_classification",
        r"The columns \['target'\] were left out, .*; rename one to `labels`",
    ),
}


@pytest.mark.parametrize("what", ROWS)
def test_rows_that_make_no_batch(tmp_path, what):
    several, head, message = ROWS[what]
    trainer = make_trainer(
        tmp_path,
        make_model(head=head, config=None),
        train_dataset=dict.fromkeys(LANGUAGES, several),
        meta_dataset=None,
    )
    with pytest.raises(DataError, match=message):
        trainer.train()


def warned(caplog):
    return [one.getMessage() for one in caplog.records if "_idle_languages" in one.name]


@pytest.mark.parametrize(
    ("languages", "advice"),
    [(["te", "da"], 'train_only("te", "da")'), (["da"], 'train_only("da")')],
)
def test_languages_without_training_data_are_named_once(tmp_path, caplog, languages, advice):
    idle = [key for key in LANGUAGES if key not in languages]
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(
            tmp_path,
            make_model(),
            train_dataset=texts(1, languages),
            meta_dataset=texts(2, languages),
        )
        trainer.train()
    (message,) = warned(caplog)
    assert f"no data of {idle}" in message
    assert advice in message


def frozen(model):
    model.train_only("te")
    return model


QUIET = {
    "all languages": (LANGUAGES, make_model),
    "θ stays": (["te"], lambda: frozen(make_model())),
    "no adapters": (["te"], lambda: make_model(config=None)),
    "one adapter": (["te"], lambda: make_model(share_adapter=True)),
}


@pytest.mark.parametrize("what", QUIET)
def test_nothing_is_said_where_nothing_is_left_behind(tmp_path, caplog, what):
    languages, make = QUIET[what]
    with caplog.at_level(logging.WARNING):
        make_trainer(
            tmp_path,
            make(),
            train_dataset=texts(1, languages),
            meta_dataset=texts(2, languages),
        )
    assert not warned(caplog)


@pytest.mark.parametrize(("given", "rates"), [({}, [0.1, 0.2]), ({"preset": "paper"}, [0.1, 0.1])])
def test_the_rate_of_adapters_follows_that_of_an_optimizer_class(tmp_path, given, rates):
    args = make_trainer(tmp_path, make_model(), **given).args
    trainer = MetaAdapterTrainer(
        make_model(),
        args,
        train_dataset=texts(1),
        optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.1}),
    )
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, torch.optim.SGD)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == sorted(set(rates))
