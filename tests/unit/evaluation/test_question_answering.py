import itertools
import random

import pytest
import torch
from transformers import CanineTokenizer

from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.evaluation import QuestionAnswering, evaluate_languages
from hf_meta_adapters.evaluation._best_spans import best_spans
from hf_meta_adapters.evaluation._forward import run_model

from .conftest import LINES, Oracle

QUESTION = {
    "en": "Who?",
    "ar": "من؟",
    "fr": "Qui ?",
    "ru": "Кто?",
    "hi": "कौन?",
    "sw": "Nani?",
    "te": "ఎవరు?",
}


def make_example(language, word, repeat=1):
    """A passage in which `word` is the answer, once, between `repeat` copies of the others."""
    words = LINES[language].split()
    rest = [w for w in words if w != words[word]] * repeat
    middle = len(rest) // 2
    context = " ".join([*rest[:middle], words[word], *rest[middle:]])
    start = len(" ".join(rest[:middle])) + (1 if middle else 0)
    answers = {"text": [words[word]], "answer_start": [start]}
    assert context[start : start + len(words[word])] == words[word]
    return {"question": QUESTION[language], "context": context, "answers": answers}


def brute_force(start, end, longest):
    pairs = [
        (i, j) for i, j in itertools.product(range(len(start)), repeat=2) if i <= j < i + longest
    ]
    return sorted(((float(start[i] + end[j]), i, j) for i, j in pairs), reverse=True)


@pytest.mark.parametrize("longest", [1, 3, 50])
@pytest.mark.parametrize("count", [1, 4, 1000])
def test_best_spans_are_those_of_brute_force(longest, count):
    for n in (1, 2, 7, 12):
        start, end = torch.randn(2, n, dtype=torch.float64)
        assert (
            best_spans(start, end, longest=longest, count=count)
            == brute_force(start, end, longest)[:count]
        )


@pytest.mark.parametrize("max_length", [None, 64])
@pytest.mark.parametrize("language", LINES)
def test_windows_cover_the_passage_and_point_at_the_answer(tokenizer, language, max_length):
    data = [make_example(language, word, repeat=3) for word in (0, 2, -1)]
    rows = QuestionAnswering(stride=24).features(
        data, tokenizer, language=language, max_length=max_length
    )
    for example, given in enumerate(data):
        own = [row for row in rows if row["example"] == example]
        covered = {c for row in own for _, start, end in row["places"] for c in range(start, end)}
        unseen = {given["context"][c] for c in range(len(given["context"])) if c not in covered}
        assert all(not character.strip() for character in unseen)
        text, begin = given["answers"]["text"][0], given["answers"]["answer_start"][0]
        pointing = [row for row in own if row["start_positions"] > 0]
        assert pointing
        for row in pointing:
            offsets = {place: (start, end) for place, start, end in row["places"]}
            first, last = offsets[row["start_positions"]], offsets[row["end_positions"]]
            assert given["context"][first[0] : last[1]].strip() == text
            assert first[0] <= begin < first[1]
        assert all(len(row["input_ids"]) <= (max_length or 512) for row in own)
        assert all(
            row["start_positions"] == row["end_positions"] == 0
            for row in own
            if row not in pointing
        )


@pytest.mark.parametrize("max_length", [None, 64])
@pytest.mark.parametrize("language", LINES)
def test_an_oracle_answers_everything_in_every_script(tokenizer, language, max_length):
    task = QuestionAnswering(stride=24, longest_answer=40)
    data = [make_example(language, word, repeat=3) for word in range(len(LINES[language].split()))]
    rows = task.features(data, tokenizer, language=language, max_length=max_length)
    predictions = task.predictions(
        data, rows, run_model(Oracle(rows, task), rows, task.decode, batch_size=3)
    )
    assert predictions == [given["answers"]["text"][0] for given in data]
    scores = task.score(data, predictions, language=language)
    assert scores.metrics["exact_match"] == 1
    assert scores.per_example["exact_match"].tolist() == [1] * len(data)


def test_the_best_window_wins_and_white_space_never_does():
    task = QuestionAnswering()
    data = [
        {
            "context": "one  two three",
            "question": "",
            "answers": {"text": ["two"], "answer_start": [5]},
        }
    ]
    rows = [{"example": 0}, {"example": 0}]
    decoded = [[(1.0, 0, 3), (0.5, 5, 8)], [(9.0, 3, 5), (2.0, 5, 8)]]
    assert task.predictions(data, rows, decoded) == ["two"]
    assert task.predictions(data, rows, [[], [(9.0, 3, 5)]]) == [""]


def test_a_long_question_is_cut_but_the_passage_is_not(unigram):
    data = [make_example("en", 2) | {"question": LINES["en"] * 20}]
    rows = QuestionAnswering(longest_question=10).features(
        data, unigram, language="en", max_length=48
    )
    covered = {c for row in rows for _, start, end in row["places"] for c in range(start, end)}
    assert max(covered) == len(data[0]["context"]) - 1
    assert all(row["places"][0][0] <= 1 + 10 + 2 for row in rows)


def test_rules_of_the_language_or_of_squad():
    data = [
        {"context": "", "question": "", "answers": {"text": ["بيت", "دار"], "answer_start": [0, 0]}}
    ]
    assert QuestionAnswering().score(data, ["البيت"], language="ar").metrics["exact_match"] == 1
    assert (
        QuestionAnswering("squad").score(data, ["البيت"], language="ar").metrics["exact_match"] == 0
    )
    assert (
        QuestionAnswering("squad").score(data, ["دار."], language="ar").metrics["exact_match"] == 1
    )
    with pytest.raises(ConfigurationError, match="Found 'mlqa'"):
        QuestionAnswering("mlqa")


@pytest.mark.filterwarnings("ignore::hf_meta_adapters.evaluation.ConstantPredictionWarning")
def test_a_model_with_the_head_of_the_task(unigram, make_model):
    task = QuestionAnswering(stride=8)
    data = {language: [make_example(language, word) for word in (1, 3)] for language in LINES}
    scores = evaluate_languages(
        make_model("question_answering", unigram),
        task,
        data,
        processing_class=unigram,
        max_length=48,
    )
    assert all(0 <= own["f1"] <= 1 for own in scores.scores.values())
    with pytest.raises(ConfigurationError, match="reads `start_logits` with 2 dimensions"):
        evaluate_languages(make_model("masked_lm", unigram), task, data, processing_class=unigram)


def test_malformed_data(unigram):
    row = make_example("en", 1)
    with pytest.raises(DataError, match="Found none for example 1 of language 'en'"):
        QuestionAnswering().features(
            [row, row | {"answers": {"text": [], "answer_start": []}}], unigram, language="en"
        )
    with pytest.raises(ConfigurationError, match="Found `CanineTokenizer`"):
        QuestionAnswering().features([row], CanineTokenizer(), language="en")


def test_random_spans_are_seldom_right(unigram):
    draw = random.Random(0)
    data = [make_example("en", draw.randrange(10), repeat=4) for _ in range(60)]
    rows = QuestionAnswering().features(data, unigram, language="en")
    start, end = torch.randn(2, len(rows), 200)
    decoded = []
    for row, s, e in zip(rows, start, end, strict=True):
        places, n = row["places"], len(row["places"])
        decoded.append(
            [
                (v, places[i][1], places[j][2])
                for v, i, j in best_spans(s[:n], e[:n], longest=30, count=5)
            ]
        )
    metrics = (
        QuestionAnswering()
        .score(data, QuestionAnswering().predictions(data, rows, decoded), language="en")
        .metrics
    )
    assert metrics["exact_match"] < 0.15
    assert metrics["f1"] < 0.5
