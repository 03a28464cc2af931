"""A model beside reference models: bits per character on the same texts, and whose they are."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.study.diagnosed_model import DiagnosedModel
from hf_meta_adapters.study.goldfish import _FULL, _LARGE, goldfish_name
from hf_meta_adapters.study.references import compare_references, reference_models
from tests.docs.conftest import tokenizer

TEXTS = {
    "en": ["In the beginning", "was the Word.", "And the Word", "In the Word"],
    "sw": ["Hapo mwanzo", "Hapo", "mwanzo Hapo mwanzo", "zo"],
}
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def save(folder, seed, width=8):
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=320, n_positions=64, n_embd=width, n_layer=1, n_head=2, bos_token_id=0
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer(**NAMES).save_pretrained(folder)
    return model.eval()


def bits(model, text):
    """−log₂ p of a text after the token that begins it."""
    words = tokenizer(**NAMES)
    tokens = words(text, add_special_tokens=False).input_ids
    ids = torch.tensor([words.bos_token_id, *tokens])
    with torch.no_grad():
        logs = model(ids[None]).logits[0].log_softmax(-1)
    return -sum(float(logs[place, token]) for place, token in enumerate(tokens)) / math.log(2)


def test_the_difference_is_that_of_the_bits_of_the_texts(tmp_path):
    joint = save(tmp_path / "joint", 0)
    alone = {"en": save(tmp_path / "en", 1, 16), "sw": joint}
    diagnosed = DiagnosedModel.load(tmp_path / "joint")
    names = {"en": str(tmp_path / "en"), "sw": str(tmp_path / "joint")}

    found = compare_references(diagnosed, TEXTS, names)
    for row, (language, texts) in zip(found.rows, TEXTS.items(), strict=True):
        characters = sum(map(len, texts))
        expected = sum(bits(joint, text) for text in texts) / characters
        reference = sum(bits(alone[language], text) for text in texts) / characters
        assert (row.language, row.reference) == (language, names[language])
        assert row.bits == pytest.approx(expected, rel=1e-5)
        assert row.reference_bits == pytest.approx(reference, rel=1e-5)
        assert row.difference == pytest.approx(expected - reference, rel=1e-4, abs=1e-9)
        assert row.scored == row.reference_scored == pytest.approx(1)

    # a model beside itself is not behind
    assert (found.rows[1].low, found.rows[1].high) == (0, 0)
    assert found.behind == (("en",) if found.rows[0].low > 0 else ())
    assert found.behind == () or "texts in en better" in found.finding
    assert "NOT COMPARABLE" not in found.to_markdown()


def test_words_name_the_models_of_languages(tmp_path):
    save(tmp_path / "sw", 0)
    languages = ["en", "sw", "zh-Hant"]
    assert reference_models(["goldfish:10mb"], languages) == {
        "en": "goldfish-models/eng_latn_10mb",
        "sw": "goldfish-models/swa_latn_10mb",
        "zh-Hant": "goldfish-models/zho_hant_10mb",
    }
    assert reference_models([str(tmp_path), "en=me/en"], languages) == {
        "en": "me/en",
        "sw": str(tmp_path / "sw"),
    }
    # a language that Goldfish lacks may be named
    assert list(reference_models(["goldfish", "xx=me/xx"], ["en", "xx"])) == ["en", "xx"]
    with pytest.raises(ConfigurationError, match="goldfish xx=goldfish-models/NAME"):
        reference_models(["goldfish"], ["en", "xx"])
    with pytest.raises(ConfigurationError, match="Found 'en='"):
        reference_models(["en="], languages)


@pytest.mark.parametrize(
    ("language", "name"),
    [
        ("te", "tel_telu_1000mb"),
        ("en-Latn", "eng_latn_1000mb"),
        ("sr", "srp_cyrl_1000mb"),
        ("sr-Latn", "srp_latn_1000mb"),
        ("swa", "swa_latn_1000mb"),
        ("swa_Latn", "swa_latn_1000mb"),
        ("zho-Hant", "zho_hant_full"),
        ("yo", "yor_latn_full"),
    ],
)
def test_the_largest_goldfish_of_a_language(language, name):
    assert goldfish_name(language) == f"goldfish-models/{name}"


@pytest.mark.parametrize("language", ["sw-Arab", "xx", "e"])
def test_a_language_or_script_without_goldfish(language):
    with pytest.raises(ConfigurationError, match=language):
        goldfish_name(language)


def test_the_tables_agree_with_themselves():
    entries = [entry.split(":") for entry in (_LARGE + _FULL).split()]
    keys = [key for key, _ in entries]
    assert len(keys) == len(set(keys))
    assert all(len(name) == 8 and name[3] == "_" for _, name in entries)
    assert not {name for _, name in entries[: len(_LARGE.split())]} & {
        name for _, name in entries[len(_LARGE.split()) :]
    }
