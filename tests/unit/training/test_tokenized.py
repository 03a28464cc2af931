"""Text in place of tokens, and one dataset in place of one for each language."""

import pytest
from datasets import Dataset
from tokenizers.pre_tokenizers import WhitespaceSplit

from hf_meta_adapters.errors import DataError
from tests.training import make_model, make_tokenizer, make_trainer, texts

LINES = {"text": [" ".join(f"w{number + k}" for k in range(6)) for number in range(4, 44)]}
LANGUAGES = ("da", "te")


def word_tokenizer():
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer


def as_list(columns):
    return [{"text": line} for line in columns["text"]]


@pytest.mark.parametrize("kind", [Dataset.from_dict, as_list])
@pytest.mark.parametrize("role", ["train_dataset", "eval_dataset"])
def test_text_is_refused_with_the_language_and_the_call_to_make(kind, role, tmp_path):
    data = {"train_dataset": texts(1, LANGUAGES), "eval_dataset": texts(3, LANGUAGES)}
    data[role] = {**data[role], "te": kind(LINES)}
    said = rf"`{role}` must be .*column 'text'.*for \['te'\].*tokenizer\(rows\['text'\]"
    with pytest.raises(DataError, match=said):
        make_trainer(
            tmp_path,
            make_model(LANGUAGES),
            meta_dataset=texts(2, LANGUAGES),
            processing_class=make_tokenizer(),
            **data,
        )


def test_the_call_makes_rows_to_train_on(tmp_path):
    tokenizer = word_tokenizer()
    data = {key: Dataset.from_dict(LINES) for key in LANGUAGES}
    for key in LANGUAGES:
        data[key] = data[key].map(
            lambda rows: tokenizer(rows["text"], truncation=True, max_length=8),
            batched=True,
            remove_columns="text",
        )
    trainer = make_trainer(
        tmp_path,
        make_model(LANGUAGES),
        train_dataset=data,
        meta_dataset=None,
        processing_class=tokenizer,
    )
    assert trainer.train().global_step == 2


@pytest.mark.parametrize("kind", [Dataset.from_dict, as_list])
def test_a_collator_may_tokenize(kind, tmp_path):
    tokenizer = word_tokenizer()

    def collate(rows):
        batch = tokenizer([row["text"] for row in rows], return_tensors="pt", padding=True)
        return {**batch, "labels": batch["input_ids"]}

    trainer = make_trainer(
        tmp_path,
        make_model(LANGUAGES),
        train_dataset={key: kind(LINES) for key in LANGUAGES},
        meta_dataset=None,
        data_collator=collate,
        remove_unused_columns=False,
    )
    assert trainer.train().global_step == 2


def test_one_dataset_is_refused_with_the_function_that_splits_it(tmp_path):
    rows = Dataset.from_dict({"language": ["da", "te"], "input_ids": [[5], [6]]})
    said = r'Found a `Dataset`.*`train_dataset=by_language_column\(dataset, "language"\)`'
    with pytest.raises(DataError, match=said):
        make_trainer(tmp_path, make_model(LANGUAGES), train_dataset=rows, meta_dataset=None)
