import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ByT5Tokenizer, CanineTokenizer

from hf_meta_adapters.errors import ConfigurationError, DataError, NonFiniteLossError
from hf_meta_adapters.evaluation import CausalLM, MaskedLM, evaluate_languages
from hf_meta_adapters.evaluation.language_model_score import bits_per_character
from hf_meta_adapters.evaluation.lm_features import causal_lm_features, masked_lm_features

from .conftest import LINES, train_tokenizer

TEXTS = list(LINES.values())


class Uniform(nn.Module):
    """Every token of the vocabulary is equally probable."""

    def __init__(self, vocabulary, value=0.0):
        super().__init__()
        self.vocabulary, self.value = vocabulary, value

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(logits=torch.full((*input_ids.shape, self.vocabulary), self.value))


def scored(features):
    return [target for row in features for target in row["targets"] if target != -100]


@pytest.mark.parametrize("max_length", [None, 9])
@pytest.mark.parametrize("language", LINES)
def test_masking_everything_counts_every_character_of_the_text(tokenizer, language, max_length):
    text = LINES[language]
    rows = masked_lm_features(tokenizer, [text], mask_probability=1.0, max_length=max_length)
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    if tokenizer.unk_token_id not in tokens:
        assert sum(sum(row["characters"]) for row in rows) == pytest.approx(len(text))
    assert scored(rows) == [token for token in tokens if token != tokenizer.unk_token_id]
    assert all(len(row["input_ids"]) <= (max_length or 512) for row in rows)


@pytest.mark.parametrize("max_length", [None, 9])
def test_causal_rows_predict_every_token_from_those_before_it(tokenizer, max_length):
    rows = causal_lm_features(tokenizer, TEXTS, max_length=max_length)
    for example, text in enumerate(TEXTS):
        own = [row for row in rows if row["example"] == example]
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert [token for row in own for token in row["input_ids"][1:]] == tokens
        for row in own:
            assert row["input_ids"][0] == tokenizer.bos_token_id
            known = [
                -100 if token == tokenizer.unk_token_id else token for token in row["input_ids"][1:]
            ]
            assert row["targets"] == [*known, -100]
        if tokenizer.unk_token_id not in tokens:
            assert sum(sum(row["characters"]) for row in own) == pytest.approx(len(text))


def test_without_a_first_token_the_first_token_of_the_text_is_not_scored():
    bare = train_tokenizer("unigram", ["ab ab ba"], size=20, around=False)
    (row,) = causal_lm_features(bare, ["ab ba"])
    tokens = bare("ab ba")["input_ids"]
    assert row["input_ids"] == tokens
    assert row["targets"] == [*tokens[1:], -100]
    assert sum(row["characters"]) < 5


def test_masks_are_fixed_by_seed_language_and_row_only(unigram):
    def masks(texts, **options):
        return [row["targets"] for row in masked_lm_features(unigram, texts, **options)]

    again = masks(TEXTS, language="sw", seed=3)
    assert masks(TEXTS, language="sw", seed=3) == again
    assert masks(TEXTS[:2], language="sw", seed=3) == again[:2]
    assert masks(TEXTS, language="sw", seed=4) != again
    assert masks(TEXTS, language="te", seed=3) != again
    assert (
        masks([TEXTS[0], TEXTS[0]], language="sw")[0]
        != masks([TEXTS[0], TEXTS[0]], language="sw")[1]
    )


def test_masks_are_these_in_every_process(unigram):
    """A change of the choice would silently change every published score."""
    (row,) = masked_lm_features(unigram, ["a " * 20], language="sw", seed=0, mask_probability=0.2)
    places = [place for place, target in enumerate(row["targets"]) if target != -100]
    assert places == [1, 5, 14, 18]


@pytest.mark.parametrize(("probability", "expected"), [(0.01, 1), (0.15, 3), (0.5, 10), (1.0, 20)])
def test_the_share_of_masks_is_exact(probability, expected):
    letters = train_tokenizer("byte_bpe", ["x"], size=261)
    (row,) = masked_lm_features(letters, ["y" * 19], mask_probability=probability)
    assert len(row["input_ids"]) - 2 == 20  # the prefix space, too
    assert row["input_ids"].count(letters.mask_token_id) == len(scored([row])) == expected


def test_unknown_tokens_are_not_scored():
    latin = train_tokenizer("wordpiece", ["some words in a script"], size=60)
    (row,) = masked_lm_features(latin, ["words слова"], mask_probability=1.0)
    assert latin.unk_token_id in row["input_ids"]
    assert latin.unk_token_id not in row["targets"]
    assert sum(row["characters"]) == 5
    for features in (masked_lm_features, causal_lm_features):
        with pytest.raises(DataError, match="no token to score in 2 texts of language 'ru'"):
            features(latin, ["слова", ""], language="ru")


@pytest.mark.parametrize("slow", [CanineTokenizer, ByT5Tokenizer])
def test_a_tokenizer_without_offsets_shares_out_all_characters(slow):
    tokenizer = slow()
    assert not tokenizer.is_fast
    if tokenizer.bos_token is None:
        tokenizer.bos_token = tokenizer.pad_token
    rows = causal_lm_features(tokenizer, ["habari ya leo"], max_length=9)
    assert sum(sum(row["characters"]) for row in rows) == pytest.approx(13)
    assert scored(rows) == tokenizer("habari ya leo", add_special_tokens=False)["input_ids"]


def test_uniform_predictions_cost_log_v_a_token(tokenizer):
    vocabulary = len(tokenizer)
    for rows in (masked_lm_features(tokenizer, TEXTS), causal_lm_features(tokenizer, TEXTS)):
        score = bits_per_character(Uniform(vocabulary), rows)
        assert score.loss == pytest.approx(math.log(vocabulary), rel=1e-6)
        characters = sum(sum(row["characters"]) for row in rows)
        assert score.bits_per_character == pytest.approx(
            len(scored(rows)) * math.log2(vocabulary) / characters
        )
        assert score.to_dict()["tokens"] == len(scored(rows))


@pytest.mark.parametrize(("head", "family"), [("masked_lm", "xlm-r"), ("causal_lm", "llama")])
def test_bits_equal_those_of_each_text_alone(unigram, make_model, head, family):
    model = make_model(head, unigram, family=family)
    make = masked_lm_features if head == "masked_lm" else causal_lm_features
    rows = make(unigram, TEXTS, max_length=20)
    expected = np.zeros(len(TEXTS))
    for row in rows:
        logits = (
            model(input_ids=torch.tensor([row["input_ids"]])).logits[0].double().log_softmax(-1)
        )
        for place, target in enumerate(row["targets"]):
            if target != -100:
                expected[row["example"]] -= logits[place, target].item() / math.log(2)
    for batch_size in (1, 4, 100):
        score = bits_per_character(model, rows, batch_size=batch_size)
        np.testing.assert_allclose(score.bits, expected, rtol=1e-4)
        assert score.bits_per_character == pytest.approx(
            expected.sum() / score.characters.sum(), rel=1e-4
        )


def test_the_causal_loss_is_that_of_the_model(unigram, make_model):
    model = make_model("causal_lm", unigram, family="llama")
    (row,) = causal_lm_features(unigram, [LINES["sw"]])
    ids = torch.tensor([row["input_ids"]])
    assert bits_per_character(model, [row]).loss == pytest.approx(
        model(ids, labels=ids).loss.item(), rel=1e-5
    )


@pytest.mark.parametrize("task", [MaskedLM(seed=2), CausalLM()], ids=lambda task: task.name)
def test_the_tasks_give_the_same_scores(unigram, make_model, task):
    model = make_model(task.name, unigram, family="xlm-r" if task.name == "masked_lm" else "llama")
    data = {language: [{"text": text}, {"text": text[::-1]}] for language, text in LINES.items()}
    scores = evaluate_languages(model, task, data, processing_class=unigram, max_length=16)
    features = task.features(data["te"], unigram, language="te", max_length=16)
    expected = bits_per_character(model, features, "te")
    assert scores["te"]["bits_per_character"] == pytest.approx(expected.bits_per_character)
    assert scores["te"]["loss"] == pytest.approx(expected.loss)
    parts = scores.per_example["te"]
    assert parts["bits"].sum() / parts["characters"].sum() == pytest.approx(
        expected.bits_per_character
    )
    assert not scores.higher_is_better


def test_refusals(unigram):
    for probability in (0.0, 1.5):
        with pytest.raises(ConfigurationError, match=f"Found {probability}"):
            masked_lm_features(unigram, TEXTS, mask_probability=probability)
    with pytest.raises(ConfigurationError, match="without mask token"):
        masked_lm_features(ByT5Tokenizer(), TEXTS)
    rows = masked_lm_features(unigram, TEXTS)
    with pytest.raises(NonFiniteLossError, match="nan bits for language 'sw'"):
        bits_per_character(Uniform(len(unigram), math.nan), rows, "sw")
    with pytest.raises(ConfigurationError, match="logits over 3 classes"):
        bits_per_character(Uniform(3), rows)
