import random

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from transformers import CanineTokenizer

from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.evaluation import NER, POS, evaluate_languages
from hf_meta_adapters.evaluation._forward import run_model

from .conftest import LINES, Oracle


def make_data(task, language, count=5, longest=60):
    """Random sentences in which a word has the same tag everywhere."""
    draw, words = random.Random(language), LINES[language].split()
    tags = dict(zip(words, draw.choices(task.labels, k=len(words)), strict=True))
    sentences = [draw.choices(words, k=draw.randint(1, longest)) for _ in range(count)]
    return [
        {"tokens": sentence, "tags": [tags[word] for word in sentence]} for sentence in sentences
    ]


@pytest.mark.parametrize("max_length", [None, 24, 12])
@pytest.mark.parametrize("language", LINES)
def test_each_word_is_labelled_once_at_its_first_subword(tokenizer, language, max_length):
    task = POS()
    data = make_data(task, language)
    rows = task.features(data, tokenizer, language=language, max_length=max_length)
    seen = {}
    for row in rows:
        assert (
            len(row["input_ids"])
            == len(row["attention_mask"])
            == len(row["labels"])
            <= (max_length or 512)
        )
        labelled = [place for place, label in enumerate(row["labels"]) if label != -100]
        assert labelled == [place for place, _ in row["words"]]
        for place, word in row["words"]:
            assert (row["example"], word) not in seen
            text = data[row["example"]]["tokens"][word]
            seen[row["example"], word] = data[row["example"]]["tags"][word]
            assert row["labels"][place] == task.label2id[seen[row["example"], word]]
            assert row["input_ids"][place] == first_subword(tokenizer, text)
    words = {(i, j): tag for i, own in enumerate(data) for j, tag in enumerate(own["tags"])}
    visible = {
        key for key in words if first_subword(tokenizer, data[key[0]]["tokens"][key[1]]) is not None
    }
    assert set(seen) == visible


def first_subword(tokenizer, word):
    ids = tokenizer([word], is_split_into_words=True, add_special_tokens=False)["input_ids"]
    return ids[0] if ids else None


def test_windows_show_context_on_both_sides(unigram):
    data = [{"tokens": ["ziwa"] * 40, "tags": ["NOUN"] * 40}]
    rows = POS().features(data, unigram, language="sw", max_length=24)
    assert len(rows) > 2
    for row in rows[1:-1]:
        places = [place for place, _ in row["words"]]
        assert places[0] > 3
        assert places[-1] < len(row["input_ids"]) - 4


@pytest.mark.parametrize("task", [NER(), POS()], ids=lambda task: task.name)
@pytest.mark.parametrize("language", LINES)
def test_predictions_are_put_together_from_windows(tokenizer, language, task):
    data = make_data(task, language)
    rows = task.features(data, tokenizer, language=language, max_length=16)
    decoded = run_model(Oracle(rows, task), rows, task.decode, batch_size=3)
    predictions = task.predictions(data, rows, decoded)
    for own, given in zip(predictions, data, strict=True):
        visible = [first_subword(tokenizer, word) is not None for word in given["tokens"]]
        assert own == [
            tag if seen else task.unseen for tag, seen in zip(given["tags"], visible, strict=True)
        ]


def test_a_word_without_subwords_is_scored_as_unseen(tokenizer):
    data = [{"tokens": ["", "Newton", ""], "tags": ["B-PER", "I-PER", "O"]}]
    rows = NER().features(data, tokenizer, language="en")
    decoded = run_model(Oracle(rows, NER()), rows, NER().decode)
    predictions = NER().predictions(data, rows, decoded)
    assert predictions == [["O", "I-PER", "O"]]
    assert NER().score(data, predictions, language="en").metrics["f1"] == 0


def test_sentences_without_words_cost_nothing(unigram):
    data = [{"tokens": [], "tags": []}, {"tokens": ["ziwa"], "tags": ["NOUN"]}]
    scores = evaluate_languages(
        Oracle(POS().features(data, unigram, language="sw"), POS()),
        "pos",
        {"sw": data},
        processing_class=unigram,
    )
    assert scores["sw"] == {"accuracy": 1.0}


def test_types_that_are_not_counted_become_o():
    data = [
        {"tokens": list("abcdef"), "tags": ["B-DATE", "I-DATE", "B-PER", "I-PER", "B-MISC", "O"]}
    ]
    assert NER().references(data, "hi") == [["O", "O", "B-PER", "I-PER", "O", "O"]]
    assert NER(["DATE"]).references(data, "hi") == [["B-DATE", "I-DATE", "O", "O", "O", "O"]]
    assert NER().labels == ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")


def test_ids_of_class_labels_are_read_by_their_names(unigram):
    """As in WikiANN and in Universal Dependencies on the Hub."""
    names = ["O", "B-LOC", "B-PER", "I-PER"]
    columns = Features(
        {"tokens": Sequence(Value("string")), "ner_tags": Sequence(ClassLabel(names=names))}
    )
    data = Dataset.from_dict(
        {"tokens": [["Anna", "Ahmatova", "Odessa"]], "ner_tags": [[2, 3, 1]]}, features=columns
    )
    assert NER().references(data, "ru") == [["B-PER", "I-PER", "B-LOC"]]
    (row,) = NER().features(data, unigram, language="ru")
    assert [label for label in row["labels"] if label != -100] == [1, 2, 5]


def test_contractions_of_universal_dependencies_are_not_scored(unigram):
    data = [{"tokens": ["du", "de", "le"], "upos": ["_", "ADP", "DET"]}]
    (row,) = POS().features(data, unigram, language="fr")
    assert [label for label in row["labels"] if label != -100] == [
        POS().label2id["ADP"],
        POS().label2id["DET"],
    ]
    score = POS().score(data, [["X", "ADP", "X"]], language="fr")
    assert score.metrics == {"accuracy": 0.5}
    assert score.per_example["words"].tolist() == [2]


@pytest.mark.parametrize("language", LINES)
def test_parts_give_the_metric_back(language):
    draw, data = random.Random(1), make_data(NER(), language, count=20, longest=9)
    predictions = [[draw.choice([tag, *NER().labels]) for tag in own["tags"]] for own in data]
    score = NER().score(data, predictions, language=language)
    parts = {name: values.sum() for name, values in score.per_example.items()}
    assert 2 * parts["correct"] / (parts["predicted"] + parts["expected"]) == pytest.approx(
        score.metrics["f1"]
    )
    assert 0 < score.metrics["f1"] < 1


def test_training_on_the_features_teaches_the_task(unigram, make_model):
    """The same rows serve a Trainer: their labels lead the loss to the scored predictions."""
    task = POS()
    data = [{"tokens": ["ziwa", "Julius", "na"] * 3, "tags": ["NOUN", "PROPN", "CCONJ"] * 3}]
    (row,) = task.features(data, unigram, language="sw")
    model = make_model("token_classification", unigram, task)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    inputs = {name: torch.tensor([row[name]]) for name in ("input_ids", "attention_mask", "labels")}
    for _ in range(30):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
    assert (
        evaluate_languages(model, task, {"sw": data}, processing_class=unigram)["sw"]["accuracy"]
        == 1
    )


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        (NER(), {"tokens": ["a"], "tags": ["S-PER"]}, "Found 'S-PER'"),
        (NER(), {"tokens": ["a"], "tags": [3]}, "Found 3 in column 'tags' of language 'xx'"),
        (POS(), {"tokens": ["a"], "tags": ["NN"]}, "Found 'NN'"),
        (
            POS(),
            {"tokens": ["a", "b"], "tags": ["X"]},
            "2 words and 1 tags in example 0 of language 'xx'",
        ),
        (POS(), {"words": ["a"], "tags": ["X"]}, "must have a column 'tokens'. Found"),
        (POS(), {"tokens": ["a"]}, "must have a column 'tags' or 'upos' or 'pos_tags'"),
    ],
)
def test_malformed_data(unigram, task, row, message):
    with pytest.raises(DataError, match=message):
        task.features([row], unigram, language="xx")


def test_entities_of_other_types_only_are_refused():
    data = [{"tokens": ["a", "b"], "tags": ["B-PERSON", "O"]}]
    with pytest.raises(DataError, match=r"Found only \['PERSON'\] in language 'xx'"):
        NER().score(data, [["O", "O"]], language="xx")


def test_slow_tokenizers_are_refused():
    with pytest.raises(ConfigurationError, match="Found `CanineTokenizer`"):
        NER().features([{"tokens": ["a"], "tags": ["O"]}], CanineTokenizer(), language="en")
