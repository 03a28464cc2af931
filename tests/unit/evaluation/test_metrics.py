import random
from itertools import pairwise

import numpy as np
import pytest
import seqeval.metrics

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation import _metrics_library
from hf_meta_adapters.evaluation.metrics import (
    AnswerMatch,
    ClassF1,
    SpanF1,
    TagAccuracy,
    compute,
    repair_bio,
    spans,
)

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def read_spans(tags):
    """The entities of a sentence by the rules of conlleval, written from its description."""
    found, begin = set(), None
    for index, (last, tag) in enumerate(pairwise(["O", *tags, "O"])):
        continues = tag.startswith("I-") and last != "O" and last[2:] == tag[2:]
        if begin is not None and not continues:
            found.add((last[2:], begin, index - 1))
            begin = None
        if tag != "O" and not continues:
            begin = index
    return found


def f1_of(predictions, references):
    pairs = [(read_spans(p), read_spans(r)) for p, r in zip(predictions, references, strict=True)]
    total = sum(len(p) + len(r) for p, r in pairs)
    return 2 * sum(len(p & r) for p, r in pairs) / total if total else 0.0


def random_tags(draw, count=6):
    return [[draw.choice(TAGS) for _ in range(draw.randint(1, 8))] for _ in range(count)]


def test_spans_are_those_of_conlleval_and_of_seqeval():
    draw = random.Random(0)
    for _ in range(30):
        references = random_tags(draw)
        predictions = [[draw.choice([tag, *TAGS]) for tag in tags] for tags in references]
        scores = compute(SpanF1, predictions=predictions, references=references)
        assert scores["f1"] == pytest.approx(f1_of(predictions, references))
        assert scores["f1"] == pytest.approx(
            seqeval.metrics.f1_score(references, predictions, zero_division=0)
        )
        assert scores["precision"] == pytest.approx(
            seqeval.metrics.precision_score(references, predictions, zero_division=0)
        )
        assert all(spans(repair_bio(tags)) == read_spans(tags) for tags in predictions)


@pytest.mark.parametrize(
    ("prediction", "reference", "f1"),
    [
        (["O", "O"], ["O", "O"], 0),  # no entity anywhere: nothing to find, seqeval says 0
        (["O", "O"], ["B-PER", "O"], 0),
        (["B-PER", "O"], ["O", "O"], 0),
        (["I-PER", "I-PER"], ["B-PER", "I-PER"], 1),  # repaired
        (["B-PER", "B-PER"], ["B-PER", "I-PER"], 0),
        (["B-PER", "I-LOC"], ["B-PER", "B-LOC"], 1),
        (["B-PER", "I-PER", "O"], ["B-PER", "I-PER", "I-PER"], 0),
        (["O", "I-LOC", "O"], ["B-PER", "B-LOC", "O"], 2 / 3),
    ],
)
def test_span_f1_by_hand(prediction, reference, f1):
    assert compute(SpanF1, predictions=[prediction], references=[reference])["f1"] == pytest.approx(
        f1
    )


def test_repair_changes_only_what_is_malformed():
    assert repair_bio(["B-PER", "I-PER", "O", "B-LOC"]) == ["B-PER", "I-PER", "O", "B-LOC"]
    assert repair_bio(["I-PER", "B-LOC", "I-PER", "I-PER"]) == ["B-PER", "B-LOC", "B-PER", "I-PER"]
    assert repair_bio([]) == []
    scores = compute(
        SpanF1,
        predictions=[["I-PER", "I-PER"], ["O", "O"]],
        references=[["B-PER", "I-PER"], ["O", "O"]],
    )
    assert scores["repaired"] == 0.25


def test_empty_sentences_are_allowed():
    assert compute(SpanF1, predictions=[[], ["B-PER"]], references=[[], ["B-PER"]])["f1"] == 1
    assert compute(TagAccuracy, predictions=[[], ["X"]], references=[[], ["X"]])["accuracy"] == 1


def test_accuracy_and_macro_f1_by_hand():
    predictions, references = ["a", "a", "b", "c", "a"], ["a", "b", "b", "b", "a"]
    scores = compute(ClassF1, predictions=predictions, references=references)
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["macro_f1"] == pytest.approx((4 / 5 + 2 / 4 + 0) / 3)
    nested = compute(
        TagAccuracy,
        predictions=[predictions[:2], predictions[2:]],
        references=[["a", "b"], ["b", "b", "a"]],
    )
    assert nested["accuracy"] == pytest.approx(3 / 5)


def test_answer_match_is_the_mean_over_questions():
    predictions, references = (
        ["the Nile", "river", ""],
        [["Nile", "Congo"], ["the river Nile"], ["x"]],
    )
    scores = compute(AnswerMatch, predictions=predictions, references=references)
    assert scores == {"exact_match": pytest.approx(1 / 3), "f1": pytest.approx((1 + 2 / 3) / 3)}
    arabic = {"predictions": ["البيت"], "references": [["بيت"]]}
    assert compute(AnswerMatch, **arabic)["exact_match"] == 0
    assert compute(AnswerMatch, **arabic, language="ar")["exact_match"] == 1


def test_they_are_ordinary_metrics(tmp_path):
    metric = SpanF1(cache_dir=str(tmp_path))
    metric.add_batch(predictions=[["B-PER"]], references=[["B-PER"]])
    metric.add(prediction=["O", "O"], reference=["O", "B-LOC"])
    assert metric.compute()["recall"] == 0.5


def test_nothing_is_left_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    compute(ClassF1, predictions=["a"], references=["a"])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_is_named(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(_metrics_library, "import_module", absent)
    with pytest.raises(
        ConfigurationError, match=r"needs sklearn.*pip install hf-meta-adapters\[metrics\]"
    ):
        compute(ClassF1, predictions=["a"], references=["a"])


def test_values_are_plain_floats():
    for metric in (SpanF1, TagAccuracy):
        values = compute(metric, predictions=[["O"]], references=[["O"]]).values()
        assert all(type(value) is float and not np.isnan(value) for value in values)
