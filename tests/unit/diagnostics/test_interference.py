import json
import math

import numpy as np
import pytest
import torch

from hf_meta_adapters.diagnostics import interference_report
from hf_meta_adapters.errors import ConfigurationError, DataError, LanguageError


def test_positive_means_that_joint_is_worse():
    better = interference_report({"en": 80.0, "sw": 50.0}, {"en": 78.0, "sw": 55.0})
    assert [row.difference for row in better.rows] == [2.0, -5.0]
    assert better.mean() == -1.5
    loss = interference_report(
        {"en": 1.5}, {"en": 1.75}, higher_is_better=False, metric="bits per character"
    )
    assert loss.rows[0].difference == 0.25
    assert math.isnan(loss.rows[0].low)


def test_tasks_may_differ_in_direction():
    monolingual, joint = {"en": {"ner": 80.0, "lm": 1.0}}, {"en": {"lm": 1.5, "ner": 81.0}}
    report = interference_report(monolingual, joint, higher_is_better={"ner": True, "lm": False})
    assert {row.task: row.difference for row in report.rows} == {"ner": -1.0, "lm": 0.5}
    assert "| en | lm | 1.000 | 1.500 | +0.500 |" in report.to_markdown()
    with pytest.raises(ConfigurationError, match="without 'lm'"):
        interference_report(monolingual, joint, higher_is_better={"ner": True})


def train(languages: list[str], steps: int = 30) -> dict[str, float]:
    """Losses of a linear model trained by gradient descent on the text of all `languages`, here
    copies of one.
    """
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(16, 4, generator=generator), torch.randn(16, generator=generator)
    weight = torch.zeros(4, requires_grad=True)
    for _ in range(steps):
        loss = sum((x @ weight - target).square().mean() for _ in languages) / len(languages)
        (gradient,) = torch.autograd.grad(loss, weight)
        weight.data -= 0.1 * gradient
    return {
        language: float((x @ weight.detach() - target).square().mean()) for language in languages
    }


def test_copies_of_one_language_do_not_interfere():
    names = ["en", "fr", "ru", "sw"]
    alone = {key: train([key])[key] for key in names}
    report = interference_report(alone, train(names), higher_is_better=False)
    assert [row.difference for row in report.rows] == pytest.approx([0] * 4, abs=1e-7)


def test_what_both_models_find_hard_does_not_widen_the_interval():
    hard = np.random.default_rng(0).normal(scale=100, size=50)
    noise = np.random.default_rng(1).normal(scale=1, size=50)
    row = interference_report({"en": hard + 1 + noise}, {"en": hard}).rows[0]
    half = 1.96 * noise.std(ddof=1) / 50**0.5
    assert (row.low, row.high) == pytest.approx(
        (row.difference - half, row.difference + half), abs=0.1 * half
    )


@pytest.mark.parametrize("shape", [(30,), (8, 20)])
def test_the_interval_covers_the_truth(shape):
    generator, hits, trials = np.random.default_rng(0), 0, 200
    for trial in range(trials):
        effects = sum(
            generator.normal(size=[*(1,) * i, n, *(1,) * (len(shape) - i - 1)])
            for i, n in enumerate(shape)
        )
        row = interference_report(
            {"en": 0.5 + effects},
            {"en": np.zeros(shape)},
            resamples=200,
            confidence=0.9,
            seed=trial,
        ).rows[0]
        hits += row.low <= 0.5 <= row.high
    assert 0.82 <= hits / trials < 1


def test_seeds_and_examples_are_both_resampled():
    seeds = torch.tensor([0.0, 4.0, 8.0])[:, None].expand(3, 40)
    by_seed = interference_report({"en": seeds}, {"en": torch.zeros(3, 40)}).rows[0]
    as_examples = interference_report({"en": seeds.flatten()}, {"en": torch.zeros(120)}).rows[0]
    assert by_seed.high - by_seed.low > 4 * (as_examples.high - as_examples.low)


def test_equal_compute_is_enforced():
    scores = {"en": 1.0, "sw": 2.0}
    equal = interference_report(
        scores, scores, monolingual_examples_seen=100, joint_examples_seen={"en": 100, "sw": 100}
    )
    assert "same number of examples" in equal.to_markdown()
    unequal = {"monolingual_examples_seen": {"en": 100, "sw": 1000}, "joint_examples_seen": 100}
    with pytest.raises(ConfigurationError, match=r"\{'sw': \(1000, 100\)\}"):
        interference_report(scores, scores, **unequal)
    text = interference_report(scores, scores, **unequal, allow_unequal=True).to_markdown()
    assert "sw 1,000 / 100" in text
    assert "en 100" not in text
    with pytest.raises(ConfigurationError, match="joint_examples_seen"):
        interference_report(scores, scores, monolingual_examples_seen=1)
    with pytest.raises(ConfigurationError, match="'sw'"):
        interference_report(
            scores, scores, monolingual_examples_seen={"en": 1}, joint_examples_seen=1
        )


@pytest.mark.parametrize(
    ("monolingual", "joint", "error", "words"),
    [
        ({"en": 1.0}, {"sw": 1.0}, LanguageError, "one side only"),
        ({}, {}, LanguageError, "at least one"),
        ({"en": [1.0, 2.0]}, {"en": [1.0]}, DataError, "seed by seed"),
        ({"en": {"ner": 1.0}}, {"en": {"pos": 1.0}}, DataError, "same tasks"),
        ({"en": math.nan}, {"en": 1.0}, DataError, "finite"),
        ({"en": []}, {"en": []}, DataError, "finite"),
        ({"en": "high"}, {"en": "low"}, DataError, "numbers"),
        ({"en": [[1.0], [1.0, 2.0]]}, {"en": 1.0}, DataError, "each seed"),
    ],
)
def test_bad_input_is_refused(monolingual, joint, error, words):
    with pytest.raises(error, match=words):
        interference_report(monolingual, joint)


def test_the_forms_of_the_result():
    report = interference_report(
        {"en": [80.0, 82.0, 81.0], "sw": [60.0, 61.0, 62.0]},
        {"en": [79.0, 80.0, 81.0], "sw": [61.0] * 3},
    )
    assert json.loads(json.dumps(report.to_dict()))["rows"][0]["difference"] == 1.0
    assert report.to_markdown().count("[") == 2
    assert report == interference_report(
        {"en": [80.0, 82.0, 81.0], "sw": [60.0, 61.0, 62.0]},
        {"en": [79.0, 80.0, 81.0], "sw": [61.0] * 3},
    )
    assert json.dumps(interference_report({"en": 1.0}, {"en": 1.0}).to_dict(), allow_nan=False)
