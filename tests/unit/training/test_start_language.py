"""The starts of a new language: what each takes, what it tells, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from hf_meta_adapters.errors import ConfigurationError, DataError, LanguageError
from hf_meta_adapters.evaluation.languages_by_gradient import languages_by_gradient
from hf_meta_adapters.evaluation.nearest_languages import nearest_languages
from hf_meta_adapters.training.reptile_start import REPTILE_START, add_reptile_start
from hf_meta_adapters.training.start_language import start_language
from tests.adapted import adapted, stirred
from tests.tiny import tiny
from tests.unit.evaluation.harness_cases import tokenizer

LANGUAGES = ("en", "sw", "te")


def lines(first: int, count: int = 6) -> list[dict[str, str]]:
    """Rows of eight words each; words depend on the first number."""
    return [
        {"text": " ".join(f"w{(first + 7 * row + 3 * word) % 59 + 3}" for word in range(8))}
        for row in range(count)
    ]


NEW = lines(40)
FAMILY = {"en": lines(0), "sw": lines(1), "te": lines(2)}


def masking():
    words = tokenizer()
    words.mask_token, words.pad_token = "w63", "w62"
    return words


@pytest.fixture
def model():
    torch.manual_seed(0)
    return stirred(adapted("bert", "bottleneck", [*LANGUAGES]), 0.5).eval()


def same(model, language, weights) -> bool:
    """Whether a language is the weighted mean of others."""
    several = [model.language_parameters(key).values() for key in (language, *weights)]
    return all(
        torch.allclose(new, sum(w * old for w, old in zip(weights.values(), olds, strict=True)))
        for new, *olds in zip(*several, strict=True)
    )


THIRD = dict.fromkeys(LANGUAGES, 1 / 3)


@pytest.mark.parametrize(
    ("init", "weights"),
    [
        ("mean", THIRD),
        ("sw", {"sw": 1.0}),
        ({"sw": 0.75, "en": 0.25}, {"sw": 0.75, "en": 0.25}),
    ],
)
def test_starts_that_need_no_text(model, init, weights):
    start = start_language(model, "yo", init)
    assert (start.language, start.init, start.weights) == ("yo", init, weights)
    assert start.measured == {}
    assert same(model, "yo", weights)
    assert json.loads(json.dumps(start.to_dict())) == start.to_dict()


def test_a_fresh_start_is_an_adapter_that_changes_nothing(model):
    batch = tiny("bert").batch()
    assert start_language(model, "yo", "fresh").weights == {}
    with torch.no_grad():
        fresh, other = (model(language=key, **batch).logits for key in ("yo", "sw"))
        plain = adapted("bert", None, ["en"])
        plain.base_model.load_state_dict(model.base_state_dict())
        expected = plain.eval()(language="en", **batch).logits
    torch.testing.assert_close(fresh, expected)
    assert not torch.allclose(other, expected)


def test_the_nearest_is_the_first_of_the_ranking(model):
    options = {"processing_class": masking(), "max_length": 16}
    scores = nearest_languages(model, "masked_lm", NEW, **options)
    start = start_language(model, "yo", "nearest", dataset=NEW, **options)
    assert start.measured == scores
    assert start.weights == {next(iter(scores)): 1.0}
    assert same(model, "yo", start.weights)


def test_the_nearest_by_gradient_is_the_first_of_the_ranking(model):
    options = {"processing_class": masking(), "max_length": 16, "batch_size": 2}
    cosines = languages_by_gradient(model, "masked_lm", NEW, FAMILY, **options)
    start = start_language(model, "yo", "gradient", dataset=NEW, family=FAMILY, **options)
    assert start.measured == cosines
    assert start.weights == {next(iter(cosines)): 1.0}
    assert same(model, "yo", start.weights)


def test_the_start_of_reptile_is_trained_once_and_is_no_part_of_means(model):
    options = {"family": FAMILY, "processing_class": masking(), "batch_size": 4}
    reptile = {"rounds": 4, "inner_steps": 2, "inner_learning_rate": 0.01, "seed": 3}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    start = start_language(model, "yo", "reptile", reptile=reptile, **options)
    assert start.weights == {REPTILE_START: 1.0}
    assert same(model, "yo", start.weights)
    now = model.state_dict()
    assert all(torch.equal(now[key], value) for key, value in before.items())
    assert not all(
        torch.equal(one, other)
        for one, other in zip(
            model.language_parameters("yo").values(),
            model.language_parameters("sw").values(),
            strict=True,
        )
    )

    # It is there now, and needs no text.
    assert same(model, "yo", start_language(model, "ha", "reptile").weights)
    start = start_language(model, "ig", "mean")
    assert set(start.weights) == {*LANGUAGES, "yo", "ha"}
    scores = nearest_languages(model, "masked_lm", NEW, processing_class=masking(), max_length=16)
    assert REPTILE_START in scores
    start = start_language(
        model, "zu", "nearest", dataset=NEW, processing_class=masking(), max_length=16
    )
    assert REPTILE_START not in start.measured


def test_a_model_with_nothing_but_the_start_of_reptile(model):
    options = {"family": FAMILY, "processing_class": masking(), "reptile": {"rounds": 1}}
    start_language(model, "yo", "reptile", **options)
    for key in (*LANGUAGES, "yo"):
        model.remove_language(key)
    assert start_language(model, "ha", "mean").weights == {REPTILE_START: 1.0}
    model.remove_language("ha")
    texts = {"dataset": NEW, "processing_class": masking(), "max_length": 16}
    assert start_language(model, "ig", "nearest", **texts).weights == {REPTILE_START: 1.0}


def test_its_batches_have_the_labels_of_the_head(model):
    """The same as with a loader of one's own."""
    seen = []
    reptile = {"rounds": 2, "inner_steps": 1, "loss_function": lambda m, b: m(**seen_(b)).loss}

    def seen_(batch):
        seen.append(batch)
        return batch

    start_language(
        model, "yo", "reptile", family=FAMILY, processing_class=masking(), reptile=reptile
    )
    assert all(set(batch) >= {"input_ids", "labels"} for batch in seen)
    assert all((batch["labels"] == -100).any() for batch in seen)  # masked words, not all of them
    assert add_reptile_start(model, {"en": seen}, language="x-again", rounds=1)


def test_a_language_may_have_the_name_of_a_start():
    model = stirred(adapted("bert", "bottleneck", ["mean", "nearest"]), 0.5)
    assert start_language(model, "yo", "mean").weights == {"mean": 1.0}
    assert start_language(model, "ha", "nearest").weights == {"nearest": 1.0}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"init": "closest"}, ConfigurationError, "Found 'closest'"),
        ({"init": "nearest"}, ConfigurationError, "Found no `dataset`"),
        ({"init": "gradient", "dataset": NEW}, ConfigurationError, "Found no `family`"),
        ({"init": "reptile"}, ConfigurationError, "Found no `family`"),
        ({"init": "reptile", "family": FAMILY}, ConfigurationError, "Found no `processing_class`"),
        (
            {"init": "reptile", "family": {"en": [{"sentence": "w3"}]}, "processing_class": 1},
            DataError,
            "1 rows and no column 'text'",
        ),
        ({"init": {"sw": 0.5}}, ConfigurationError, "sum to 1"),
        ({"init": {"fr": 1.0}}, LanguageError, "fr"),
        ({"language": "sw"}, LanguageError, "Found 'sw' in"),
        ({"language": "a/b"}, LanguageError, "a/b"),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_changes(model, change, error, message):
    options = {"language": "yo", **change}
    if options.get("processing_class") == 1:
        options["processing_class"] = masking()
    with pytest.raises(error, match=message):
        start_language(model, **options)
    assert model.languages == LANGUAGES
