import random

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_meta_adapters.errors import DataError
from hf_meta_adapters.evaluation import NLI, evaluate_languages

from .conftest import LINES, Noise, Oracle


def make_data(language, count=30):
    draw, words = random.Random(language), LINES[language].split()
    return [
        {
            "premise": " ".join(draw.choices(words, k=5)),
            "hypothesis": " ".join(draw.choices(words, k=3)),
            "label": label,
        }
        for label in draw.choices(NLI.labels, k=count)
    ]


@pytest.mark.parametrize("language", LINES)
def test_perfect_and_random_predictions(tokenizer, language):
    data = make_data(language)
    perfect = Oracle(NLI().features(data, tokenizer, language=language), NLI())
    scores = evaluate_languages(
        perfect, "nli", {language: data}, processing_class=tokenizer, batch_size=4
    )
    assert scores[language] == {"accuracy": 1.0, "macro_f1": 1.0}
    data = make_data(language, count=600)
    scores = evaluate_languages(Noise(NLI()), "nli", {language: data}, processing_class=tokenizer)
    assert scores[language]["accuracy"] == pytest.approx(1 / 3, abs=0.08)
    assert scores.per_example[language]["correct"].mean() == pytest.approx(
        scores[language]["accuracy"]
    )


def test_both_sides_are_read_and_cut_at_the_limit(unigram):
    data = make_data("sw", 3)
    for row, given in zip(NLI().features(data, unigram, language="sw"), data, strict=True):
        assert row["input_ids"] == unigram(given["premise"], given["hypothesis"])["input_ids"]
        assert row["labels"] == NLI.labels.index(given["label"])
    assert {
        len(row["input_ids"]) for row in NLI().features(data, unigram, language="sw", max_length=12)
    } == {12}


def test_class_labels_are_matched_by_name_not_by_number(unigram):
    columns = {"premise": Value("string"), "hypothesis": Value("string")}
    names = ["contradiction", "entailment", "neutral"]
    rows = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 1]}
    data = Dataset.from_dict(rows, features=Features({**columns, "label": ClassLabel(names=names)}))
    assert [row["labels"] for row in NLI().features(data, unigram, language="en")] == [2, 0]


@pytest.mark.parametrize(
    ("label", "message"), [("maybe", "Found 'maybe' in language 'hi'"), (1, "Found 1 in column")]
)
def test_other_labels_are_refused(unigram, label, message):
    with pytest.raises(DataError, match=message):
        NLI().features(
            [{"premise": "a", "hypothesis": "b", "label": label}], unigram, language="hi"
        )


def test_pairs_without_a_label_are_refused(unigram):
    columns = {
        "premise": Value("string"),
        "hypothesis": Value("string"),
        "label": ClassLabel(names=list(NLI.labels)),
    }
    data = Dataset.from_dict(
        {"premise": ["a"], "hypothesis": ["b"], "label": [-1]}, features=Features(columns)
    )
    with pytest.raises(
        DataError, match="Found -1 in column 'label' of language 'en', which has 3 classes"
    ):
        NLI().features(data, unigram, language="en")
