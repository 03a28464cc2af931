"""The head of an encoder without one: its loss by hand, and nothing else that is changed."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForMaskedLM, BertModel

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.pretraining import train_tokenizer
from hf_meta_adapters.study import masked_word_head
from hf_meta_adapters.study.masked_word_head import HeadTraining, train_head

# After `a` always comes `b`, and after `c` always `d`: single words say less than their neighbours.
LINES = ["a b a b a b a b", "c d c d c d c d"] * 30
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TRAINING = HeadTraining(steps=150, batch_size=64, learning_rate=0.01, max_length=16)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(LINES, vocabulary=30, max_length=16)


def encoder(tokenizer: Any) -> BertForMaskedLM:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        intermediate_size=32,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
        **SIZES,
    )
    return BertForMaskedLM(config)


def test_the_head_learns_and_the_body_stays(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = encoder(tokenizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen: list[Any] = []
    states_of = masked_word_head._states

    def remember(*args: Any) -> Any:
        seen.append(states_of(*args))
        return seen[-1]

    monkeypatch.setattr(masked_word_head, "_states", remember)
    record = train_head(model, tokenizer, {"en": LINES[::2], "sw": LINES[1::2]}, TRAINING)
    assert record.after < record.single_words < record.before
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed
    assert all(name.startswith("cls.") and "decoder.weight" not in name for name in changed)

    # Every tenth masked word is held out; words were computed once.
    ((states, words),) = seen
    assert record.states == len(words)
    held_out = words[::10].tolist()
    counts = Counter(word for place, word in enumerate(words.tolist()) if place % 10)
    total = sum(counts.values()) + 0.03 * len(tokenizer)
    expected = [-math.log((counts[word] + 0.03) / total) for word in held_out]
    assert record.single_words == pytest.approx(sum(expected) / len(expected), abs=1e-4)
    with torch.no_grad():
        loss = cross_entropy(model.cls(states[::10]), words[::10])
    assert record.after == pytest.approx(float(loss), abs=1e-4)


def test_it_is_the_same_every_time(tokenizer: Any) -> None:
    records = []
    for _ in range(2):
        torch.rand(3)  # whatever was drawn before
        records.append(train_head(encoder(tokenizer), tokenizer, {"en": LINES}, TRAINING))
    assert records[0] == records[1]


def test_a_model_without_a_head_is_refused(tokenizer: Any) -> None:
    body: Any = BertModel(encoder(tokenizer).config)
    with pytest.raises(ConfigurationError, match=r"a body and a head\. Found, in `BertModel`"):
        train_head(body, tokenizer, {"en": LINES}, TRAINING)
