"""The adapter that fits a text best comes first, by the metric of the task."""

from __future__ import annotations

import pytest
import torch

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation import evaluate_languages
from hf_meta_adapters.evaluation.nearest_languages import nearest_languages
from tests.adapted import adapted, stirred
from tests.unit.evaluation.harness_cases import tokenizer

ROWS = [{"text": "w3 w4 w5 w6"}, {"text": "w7 w8 w3 w9 w4"}, {"text": "w5 w3"}]


def masking():
    words = tokenizer()
    words.mask_token = "w63"
    return words


@pytest.mark.parametrize(("name", "task"), [("llama", "causal_lm"), ("bert", "masked_lm")])
def test_the_best_adapter_comes_first(name, task):
    model = stirred(adapted(name, "bottleneck", ["en", "sw", "te"]), 1.0).eval()
    options = {"processing_class": masking(), "max_length": 16}
    found = nearest_languages(model, task, ROWS, **options)

    assert set(found) == {"en", "sw", "te"}
    assert list(found.values()) == sorted(found.values())
    score = evaluate_languages(model, task, {"en": ROWS}, adapters={"en": "te"}, **options)
    assert found["te"] == score["en"]["bits_per_character"]


def test_an_adapter_that_knows_the_text_is_the_nearest():
    model = stirred(adapted("llama", "bottleneck", ["en", "sw", "te"]), 1.0).eval()
    model.train_only("te")
    optimizer = torch.optim.Adam(model.language_parameters("te").values(), lr=0.05)

    words = masking()
    for _ in range(20):
        for row in ROWS:
            tokens = torch.tensor([words(row["text"]).input_ids])
            optimizer.zero_grad()
            model(input_ids=tokens, labels=tokens, language="te").loss.backward()
            optimizer.step()

    found = nearest_languages(model, "causal_lm", ROWS, processing_class=words, max_length=16)
    assert next(iter(found)) == "te"


def test_all_adapters_are_scored_on_the_same_masks():
    model = adapted("bert", "bottleneck", ["en", "sw", "te"]).eval()  # three equal adapters
    rows = [{"text": " ".join(f"w{(5 * n + k) % 60 + 3}" for k in range(9))} for n in range(9)]
    options = {"processing_class": masking(), "max_length": 16}
    found = nearest_languages(model, "masked_lm", rows, **options)
    assert len(set(found.values())) == 1
    assert list(found) == ["en", "sw", "te"]

    other = evaluate_languages(model, "masked_lm", dict.fromkeys(model.languages, rows), **options)
    assert len(set(other.values().values())) == 3  # masks by language


@pytest.mark.parametrize("options", [{"share_adapter": True}, {"method": None}])
def test_languages_without_adapters_of_their_own_are_refused(options):
    with pytest.raises(ConfigurationError, match="none of their own"):
        nearest_languages(adapted("llama", **options), "causal_lm", ROWS)
