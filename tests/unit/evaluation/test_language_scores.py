import json

import numpy as np
import pytest

from hf_meta_adapters.errors import ConfigurationError, LanguageError
from hf_meta_adapters.evaluation import LanguageScores


def make(**options):
    scores = {
        "en": {"f1": 0.8, "precision": 0.9},
        "sw": {"f1": 0.4, "precision": 0.5},
        "te": {"f1": 0.3, "precision": 0.1},
    }
    parts = {language: {"correct": np.array([1.0, 0.0])} for language in scores}
    given = {
        "scores": scores,
        "examples": {"en": 1200, "sw": 3, "te": 4},
        "per_example": parts,
        **options,
    }
    return LanguageScores(task="ner", metric="f1", higher_is_better=True, **given)


def test_means_weigh_every_language_alike():
    scores = make(source_language="en")
    assert scores.languages == ("en", "sw", "te")
    assert scores.mean == {"f1": pytest.approx(0.5), "precision": pytest.approx(0.5)}
    assert scores.zero_shot_mean == {"f1": pytest.approx(0.35), "precision": pytest.approx(0.3)}
    assert scores.values() == {"en": 0.8, "sw": 0.4, "te": 0.3}
    assert scores.values("precision")["te"] == 0.1
    assert scores["sw"]["f1"] == 0.4


def test_markdown_says_how_the_scores_came_about():
    table = make(source_language="en", adapters={"te": "sw"}).to_markdown()
    assert table.splitlines()[0] == "| language | f1 | precision | examples |"
    assert "| en (source) | 0.800 | 0.900 | 1,200 |" in table
    assert "| te (adapter of sw) | 0.300 | 0.100 | 4 |" in table
    assert "| mean | 0.500 | 0.500 |  |" in table
    assert "| zero-shot mean | 0.350 | 0.300 |  |" in table
    assert table.endswith("Task ner; f1: higher is better. Trained on labels in en only.")
    assert "zero-shot" not in make().to_markdown()


def test_a_dict_that_json_takes():
    scores = make()
    assert json.loads(json.dumps(scores.to_dict())) == scores.to_dict()
    assert "per_example" not in scores.to_dict()
    assert scores.to_dict(per_example=True)["per_example"]["te"] == {"correct": [1.0, 0.0]}


def test_picture(tmp_path):
    axes = make(source_language="en").plot(tmp_path / "scores.png")
    assert (tmp_path / "scores.png").stat().st_size > 1000
    assert [patch.get_height() for patch in axes.patches] == [0.8, 0.4, 0.3]
    assert axes.get_title() == "ner, trained on en"


def test_refusals():
    with pytest.raises(LanguageError, match="these scores"):
        make()["ru"]
    with pytest.raises(ConfigurationError, match=r"one of \['f1', 'precision'\]. Found 'accuracy'"):
        make().values("accuracy")
    with pytest.raises(ConfigurationError, match="Found source None"):
        _ = make().zero_shot_mean
