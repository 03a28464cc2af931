"""A model to diagnose that was never trained is told apart from one that was."""

import math

import pytest

from hf_meta_adapters.errors import DataError
from hf_meta_adapters.evaluation import LanguageScores
from hf_meta_adapters.study.diagnosed_model import DiagnosedModel
from tests.docs.conftest import tokenizer
from tests.tiny import tiny


@pytest.fixture
def diagnosed():
    return DiagnosedModel(tiny("bert").make(), "masked_lm", tokenizer())


def scores(**losses):
    values = {key: {"bits_per_character": 1.0, "loss": loss} for key, loss in losses.items()}
    return LanguageScores(
        "masked_lm", "bits_per_character", False, values, dict.fromkeys(values, 9)
    )


def test_a_loss_above_that_of_a_guess_is_a_warning(diagnosed):
    guess = math.log(len(tokenizer()))
    assert diagnosed.cautions(scores(en=guess - 0.1, sw=0.5)) == ()

    (caution,) = diagnosed.cautions(scores(en=guess + 0.1, sw=0.5, te=99.0))
    assert "predicts en, te worse than a blind guess" in caution
    assert f"a loss of {guess:.1f}" in caution


def test_a_plain_checkpoint_takes_any_two_languages(diagnosed):
    assert list(diagnosed.known_languages({"en": ["a"], "xx": ["b"]})) == ["en", "xx"]
    with pytest.raises(DataError, match="two languages"):
        diagnosed.known_languages({"en": ["a"]})
