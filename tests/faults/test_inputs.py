"""Data and settings that cannot work: one clear error, before a weight has moved."""

from __future__ import annotations

import gzip

import pytest
import torch

from hf_meta_adapters import MetaAdapterTrainingArguments
from hf_meta_adapters.cli.recipe_arguments import parse_arguments
from hf_meta_adapters.data import load_local_datasets
from hf_meta_adapters.errors import (
    ConfigurationError,
    DataError,
    HubError,
    LanguageError,
    NonFiniteLossError,
)
from hf_meta_adapters.pretraining import PretrainingArguments
from hf_meta_adapters.training._batch_check import BatchCheck
from tests.adapted import adapted
from tests.tiny import tiny
from tests.training import make_model, make_trainer, rows, snapshot, texts

from .test_checkpoints import clear


def with_rows(change):
    several = texts(1)
    return {"train_dataset": {**several, "da": [change(row) for row in several["da"]]}}


def without(name):
    return lambda row: {key: value for key, value in row.items() if key != name}


class Empty(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(())


STREAM = {"train_dataset": {**texts(1), "da": Empty()}, "max_steps": 2}
ROWS = {
    "no rows": (
        {"train_dataset": {**texts(1), "da": []}},
        "The train data of 'da' must hold examples",
    ),
    "no rows in a stream": (
        STREAM,
        "The train data of 'da' must hold examples. Found an empty stream",
    ),
    "an iterator": (
        {"train_dataset": {**texts(1), "da": iter(rows(1))}},
        "must be iterable more than once",
    ),
    "text that is not tokenized": (
        with_rows(lambda row: {"text": "a b"}),
        "must have `input_ids`. Found .* of 'da'",
    ),
    "no input_ids": (
        with_rows(without("input_ids")),
        "must have `input_ids`. Found .* rows of 'da'",
    ),
    "no labels": (
        with_rows(without("labels")),
        r"computed from, \['labels'\]. Found \['attention_mask', 'input_ids'\]",
    ),
    "no mappings": (
        with_rows(lambda row: "a b"),
        "to make a batch of the rows. Found train rows of 'da' with `str`",
    ),
    "nothing": (
        with_rows(lambda row: None),
        "to make a batch of the rows. Found train rows of 'da' with `NoneType`",
    ),
    "labels too large": (
        with_rows(lambda row: {**row, "labels": [64] * 6}),
        "`labels` must be from 0 to 63.* Found 64",
    ),
    "negative labels": (
        with_rows(lambda row: {**row, "labels": [-1] * 6}),
        "`labels` must be from 0 to 63.* Found -1",
    ),
    "tokens too large": (
        with_rows(lambda row: {**row, "input_ids": [999] * 6}),
        "`input_ids` must be .* Found 999",
    ),
    "numbers that are no tokens": (
        with_rows(lambda row: {**row, "input_ids": [0.5] * 6}),
        "must be whole numbers",
    ),
    "rows too long": (
        with_rows(lambda row: {k: v * 6 for k, v in row.items()}),
        "more tokens than.* 31. Found 36",
    ),
    "labels too few": (
        with_rows(lambda row: {**row, "labels": [5, 5]}),
        "`labels` must be as long as `input_ids`",
    ),
    "mask too short": (
        with_rows(lambda row: {**row, "attention_mask": [1]}),
        "`attention_mask` must be as long as",
    ),
    "a language that leaves the folder": (
        {"train_dataset": {"../da": rows(1)}},
        "A language key must consist of ASCII",
    ),
    "a language that is a path": (
        {"train_dataset": {"/etc": rows(1)}},
        "A language key must consist of ASCII",
    ),
    "a language that the model lacks": (
        {"train_dataset": texts(1, ["TE"])},
        "must be one of .* Found 'TE'. Did you",
    ),
}


@pytest.mark.parametrize("what", ROWS)
def test_rows_that_cannot_work(tmp_path, what):
    given, said = ROWS[what]
    model = make_model()
    before = snapshot(model)
    with pytest.raises((DataError, LanguageError), match=said) as error:
        make_trainer(tmp_path, model, **given).train()
    assert clear(error.value), error.value
    assert all(torch.equal(one, before[name]) for name, one in snapshot(model).items())


def test_the_check_finds_room_in_every_family():
    """The longest row that the model takes passes, and one token more does not."""
    for name in ("bert", "xlm-r", "gpt2", "distilbert", "llama", "mbart", "mt5"):
        model = adapted(tiny(name)).eval()
        check, cell = BatchCheck(model), tiny(name)
        for length in range(28, 36):
            batch = cell.batch(rows=1, length=length)
            try:
                check("train", "en", batch)
            except DataError:
                assert length > 28
                with pytest.raises((IndexError, RuntimeError)):
                    model(language="en", **batch)
            else:
                model(language="en", **batch)


FILES = {
    "no UTF-8": (
        "train.txt",
        "Größe\nStraße\n".encode("latin-1"),
        "must be UTF-8.*Found after line 0",
    ),
    "no UTF-8 further on": (
        "train.txt",
        b"Wort\n" + b"\xff\xfe\n",
        "must be UTF-8.*Found after line 1",
    ),
    "empty": ("train.txt", b"", "must hold at least one example. Found none"),
    "blank lines": ("train.txt", b"\n\n\n", "must hold at least one example. Found none"),
    "truncated gzip": (
        "train.txt.gz",
        gzip.compress(b"Wort\n" * 999)[:-20],
        "must be UTF-8 text, compressed by gzip",
    ),
    "no gzip": (
        "train.txt.gz",
        b"Wort\n",
        "must be UTF-8 text, compressed by gzip if its name ends in .gz",
    ),
    "no JSON": (
        "train.jsonl",
        b'{"text": "Wort"}\n{"text": \n',
        "format that the suffix .*Found .*line 2 of",
    ),
    "no object": ("train.jsonl", b"[1, 2]\n", "A line must hold an object. Found `list` in line 1"),
    "no tab": ("train.tsv", b"Wort\n", "format that the suffix .*no tab in line 1"),
    "another suffix": ("train.pdf", b"Wort\n", "must have a file train with one of"),
}


@pytest.mark.parametrize("what", FILES)
def test_files_that_cannot_be_read(tmp_path, what):
    name, content, said = FILES[what]
    (tmp_path / "da").mkdir()
    (tmp_path / "da" / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        load_local_datasets(tmp_path, "train", languages=["da"])
    assert "\n" not in str(error.value)


SETTINGS = {
    "an unknown one": (
        "learning_speed: 3",
        "A setting must be one of .* Found `learning_speed` in .* Did you mean `learning_rate`",
    ),
    "a word for a number": (
        "max_steps: many",
        "must have the type of its field. Found `max_steps: 'many'` .* `int` is needed",
    ),
    "a list for a number": (
        "learning_rate: [1, 2]",
        "must have the type of its field. Found `learning_rate: .* `float`",
    ),
    "a word for yes or no": (
        "resume: perhaps",
        "must have the type of its field. Found `resume: 'perhaps'`",
    ),
    "a list": (
        "- max_steps\n- 3",
        "must be a YAML file of lines `setting: value`. Found in .* a list",
    ),
    "no YAML": ("max_steps: [3", "must be a YAML file of lines `setting: value`. Found in"),
    "no text": (b"\xff\xfe\x00", "must be a YAML file of lines `setting: value`. Found in"),
    "no rows": (
        "per_device_train_batch_size: 0",
        "`per_device_train_batch_size` must be a whole number of at least 1",
    ),
    "no steps of accumulation": (
        "gradient_accumulation_steps: 0",
        "`gradient_accumulation_steps` must be a whole",
    ),
    "a rate under zero": ("learning_rate: -1.0", "`learning_rate` must be a number of at least 0"),
    "a part of a skipped step": (
        "skip_nonfinite_steps: -1",
        "`skip_nonfinite_steps` must be a whole number",
    ),
    "an unknown preset": ("preset: quick", "preset.*'quick'"),
    "an unknown adapter": ("adapter: lora", "`adapter` must be one of .* Found 'lora'"),
}


@pytest.mark.parametrize("what", SETTINGS)
def test_settings_that_cannot_work(tmp_path, what):
    text, said = SETTINGS[what]
    file = tmp_path / "run.yaml"
    head = b"model: somewhere\nuse_cpu: true\nreport_to: none\n"
    file.write_bytes(
        head + (text if isinstance(text, bytes) else text.encode())
        if what != "a list"
        else text.encode()
    )
    with pytest.raises(ConfigurationError, match=said) as error:
        parse_arguments(
            (PretrainingArguments, MetaAdapterTrainingArguments), ["--config", str(file)]
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("where", ["file", "file/below", "name\0"])
def test_folders_that_cannot_be_written_to(tmp_path, where):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(
        (ConfigurationError, ValueError), match=r"`output_dir` must be a writable folder|null byte"
    ) as error:
        make_trainer(tmp_path / where, make_model())
    assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_folder_without_leave_to_write(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(
        "tempfile.TemporaryFile", refuse
    )  # whoever runs the tests may be allowed everything
    with pytest.raises(
        ConfigurationError,
        match=r"must be a writable folder\. Found .*: Permission denied. Pass the name",
    ):
        make_trainer(tmp_path, make_model())


def test_weights_that_are_not_finite(tmp_path):
    model = make_model()
    with torch.no_grad():
        next(iter(model.language_parameters("da").values()))[0] = float("inf")
    with pytest.raises(
        HubError, match=r"must be finite before training\. Found .* in the model in .*\.da\."
    ) as error:
        make_trainer(tmp_path, model).train()
    assert clear(error.value)


def test_a_gradient_that_is_not_finite(tmp_path):
    """The loss is finite, but the derivative of √ at 0 is not."""

    def rooted(outputs, labels, num_items_in_batch=None):
        return torch.sqrt((outputs["logits"].float() ** 2).sum() * 0.0)

    model = make_model()
    before = snapshot(model)
    given = {"compute_loss_func": rooted, "adapter_update": "train", "sparse_head": False}
    with pytest.raises(
        NonFiniteLossError,
        match=r"in the gradient of the shared weights after 0 steps; no weight was",
    ):
        make_trainer(tmp_path, model, **given).train()
    assert all(torch.equal(one, before[name]) for name, one in snapshot(model).items())
