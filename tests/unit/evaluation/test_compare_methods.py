"""Comparisons of methods agree with scipy's paired test, correct for their number, and point the
right way.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from hf_meta_adapters.errors import ConfigurationError, DataError, LanguageError
from hf_meta_adapters.evaluation import (
    NLI,
    POS,
    _metrics_library,
    compare_methods,
    get_task,
    majority_baseline,
)

DRAW = np.random.default_rng(0)
SCORES = {
    name: {key: DRAW.normal(shift, 1, 4).tolist() for key in ("en", "sw")}
    for shift, name in enumerate("abc")
}


@pytest.mark.parametrize("better", [True, False])
def test_differences_are_those_of_the_paired_t_test(better: bool) -> None:
    found = compare_methods(SCORES, treatments=["c"], higher_is_better=better, confidence=0.9)
    means = {name: np.mean(list(own.values()), axis=0) for name, own in SCORES.items()}
    raw = {}
    for one in found.differences:
        pair = (means["c"], means[one.baseline])[:: 1 if better else -1]
        reference = stats.ttest_rel(*pair)
        interval = reference.confidence_interval(0.9)
        assert one.mean == pytest.approx(float(np.mean(pair[0] - pair[1])))
        assert (one.low, one.high) == pytest.approx((interval.low, interval.high))
        raw[one.baseline] = reference.pvalue
        matrices = [np.array(list(SCORES[name].values())) for name in ("c", one.baseline)]
        wins = int(((matrices[0] > matrices[1]) == better).sum())
        assert (one.wins, one.pairs) == (wins, 8)
    small, large = sorted(raw, key=raw.__getitem__)
    adjusted = {one.baseline: one.p_value for one in found.differences}
    assert adjusted[small] == pytest.approx(min(1, 2 * raw[small]))
    assert adjusted[large] == pytest.approx(min(1, max(2 * raw[small], raw[large])))
    mean, low, high = found.means["a"]
    assert (low, high) == pytest.approx(stats.t.interval(0.9, 3, mean, stats.sem(means["a"])))


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_intervals_and_p_values_are_those_of_the_formula(seeds: int) -> None:
    draw = np.random.default_rng(seeds)
    scores = {name: {key: draw.normal(0, 1, seeds) for key in ("en", "sw")} for name in "ab"}
    (found,) = compare_methods(scores, treatments=["a"], confidence=0.9).differences
    gains = np.mean([scores["a"][key] - scores["b"][key] for key in ("en", "sw")], axis=0)
    error = gains.std(ddof=1) / math.sqrt(seeds)
    half = stats.t.ppf(0.95, seeds - 1) * error
    p_value = 2 * stats.t.sf(abs(gains.mean()) / error, seeds - 1)
    assert found.low == pytest.approx(gains.mean() - half, abs=1e-12)
    assert found.high == pytest.approx(gains.mean() + half, abs=1e-12)
    assert found.p_value == pytest.approx(p_value, abs=1e-12)


def test_without_variance_the_interval_is_the_mean() -> None:
    """As of a majority baseline; three times 0.235 do not even have the mean 0.235 in floats."""
    found = compare_methods({"majority": {"en": [0.235] * 3, "sw": [0.1] * 3}}).means["majority"]
    assert found[0] == found[1] == found[2] == pytest.approx((0.235 + 0.1) / 2)


def test_a_missing_scipy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(_metrics_library, "import_module", absent)
    with pytest.raises(
        ConfigurationError, match=r"needs scipy.*pip install hf-meta-adapters\[metrics\]"
    ):
        compare_methods(SCORES, treatments=["c"])


def test_one_seed_has_no_interval() -> None:
    found = compare_methods({"a": {"en": [1.0]}, "b": {"en": [2.0]}}, treatments=["b"])
    (one,) = found.differences
    assert one.mean == 1
    assert all(map(math.isnan, (one.low, one.high, one.p_value)))
    assert "one seed, no intervals" in found.to_markdown()
    assert (
        json.loads(json.dumps(found.to_dict(), allow_nan=False))["differences"][0]["p_value"]
        is None
    )


def test_equal_differences_are_certain_or_none() -> None:
    scores = {"a": {"en": [1.0, 2.0]}, "b": {"en": [2.0, 3.0]}, "c": {"en": [1.0, 2.0]}}
    found = compare_methods(scores, treatments=["a"])
    assert [one.p_value for one in found.differences] == [0, 1]


def test_the_picture_and_the_table_have_every_method(tmp_path: Path) -> None:
    found = compare_methods(SCORES, treatments=["c"], metric="F1")
    found.plot(tmp_path / "bars.png")
    assert (tmp_path / "bars.png").stat().st_size > 1000
    lines = found.to_markdown().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["a", "b", "c"]
    assert "| c | b |" in found.to_markdown()


@pytest.mark.parametrize(
    ("scores", "options", "error", "message"),
    [
        ({}, {}, ConfigurationError, r"methods that have scores, \[\]"),
        ({"a": {"en": [1.0]}}, {"treatments": ["b"]}, ConfigurationError, r"Found \['b'\]"),
        ({"a": {"en": [1.0]}}, {"confidence": 1.0}, ConfigurationError, r"Found 1\.0"),
        ({"a": {"en": [1.0]}, "b": {"sw": [1.0]}}, {}, LanguageError, r"Found \['sw'\] for 'b'"),
        ({"a": {"en": [1.0]}, "b": {"en": [1.0, 2.0]}}, {}, DataError, "'b': 2"),
        ({"a": {"en": [1.0], "sw": [1.0, 2.0]}}, {}, DataError, "one score per seed"),
        ({"a": {"en": [float("nan")]}}, {}, DataError, "Found nan"),
    ],
)
def test_what_cannot_be_compared_is_refused(scores, options, error, message) -> None:
    with pytest.raises(error, match=message):
        compare_methods(scores, **options)


def test_the_most_frequent_label_is_that_of_the_training_data() -> None:
    train = [{"tokens": ["a", "b", "c", "d"], "tags": ["NOUN", "NOUN", "VERB", "_"]}]
    test = {"sw": [{"tokens": ["e", "f", "g"], "tags": ["VERB", "VERB", "NOUN"]}]}
    assert majority_baseline(POS(), train, test)["sw"]["accuracy"] == pytest.approx(1 / 3)
    pairs = [
        {"premise": "p", "hypothesis": "h", "label": label}
        for label in ("neutral", "neutral", "entailment")
    ]
    assert majority_baseline(NLI(), pairs, {"te": pairs})["te"]["accuracy"] == pytest.approx(2 / 3)
    with pytest.raises(ConfigurationError, match="Found 'qa'"):
        majority_baseline(get_task("qa"), [], {})
