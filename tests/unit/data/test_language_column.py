"""One dataset with a column of languages, as a dataset of each language."""

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_meta_adapters import by_language_column
from hf_meta_adapters.errors import ConfigurationError, DataError, LanguageError

ROWS = {"language": ["sw", "en", "sw", "te"], "text": ["moja", "two", "tatu", "nalugu"]}
TEXTS = {"en": ["two"], "sw": ["moja", "tatu"], "te": ["nalugu"]}


def texts(found):
    return {language: [row["text"] for row in part] for language, part in found.items()}


def columns(found):
    return {name for part in found.values() for row in part for name in row}


def test_rows_go_to_their_language():
    found = by_language_column(Dataset.from_dict(ROWS))
    assert list(found) == ["en", "sw", "te"]
    assert texts(found) == TEXTS
    assert columns(found) == {"text"}


def test_a_column_of_another_name_and_chosen_languages():
    dataset = Dataset.from_dict({"lang": ROWS["language"], "text": ROWS["text"]})
    found = by_language_column(dataset, "lang", languages=["te", "sw"])
    assert list(found) == ["te", "sw"]
    assert texts(found) == {language: TEXTS[language] for language in ("te", "sw")}


@pytest.mark.parametrize("is_stream", [False, True])
def test_classes_are_languages_by_their_names(is_stream):
    names = ["en", "sw", "te"]
    features = Features({"language": ClassLabel(names=names), "text": Value("string")})
    dataset = Dataset.from_dict(ROWS, features=features)
    if is_stream:
        found = by_language_column(dataset.to_iterable_dataset(), languages=names)
    else:
        found = by_language_column(dataset)
    assert texts(found) == TEXTS


def test_a_stream_is_read_lazily():
    stream = Dataset.from_dict(ROWS).to_iterable_dataset()
    found = by_language_column(stream, languages=["en", "sw"])
    assert texts(found) == {language: TEXTS[language] for language in ("en", "sw")}
    assert columns(found) == {"text"}
    with pytest.raises(ConfigurationError, match=r'stream, "language", languages=\["en", "sw"\]'):
        by_language_column(stream)


def test_every_split_is_split():
    dataset = Dataset.from_dict(ROWS)
    splits = DatasetDict({"train": dataset, "test": dataset.select([0])})
    found = by_language_column(splits)
    assert texts(found["train"]) == TEXTS
    assert texts(found["test"]) == {"sw": ["moja"]}


@pytest.mark.parametrize(
    ("dataset", "options", "kind", "said"),
    [
        (Dataset.from_dict(ROWS), {"column": "lang"}, DataError, r"'lang'.*\['language', 'text'\]"),
        (Dataset.from_dict(ROWS), {"languages": ["yo"]}, DataError, r"none of \['yo'\].*'te'\]"),
        (Dataset.from_dict({"language": ["a/b"]}), {}, LanguageError, "Found 'a/b'"),
        (Dataset.from_dict({"language": ["en", None]}), {}, LanguageError, "Found None"),
        ([{"language": "en"}], {}, ConfigurationError, r"a `list`.*Dataset.from_list\(rows\)"),
    ],
)
def test_what_cannot_be_split_is_refused(dataset, options, kind, said):
    with pytest.raises(kind, match=said):
        by_language_column(dataset, **options)
