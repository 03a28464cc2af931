"""`mixed_rows="auto"` on real text: after a choice, the cosine is the one that was promised."""

from __future__ import annotations

import statistics

import pytest

from hf_meta_adapters.meta.sample_share import TARGET
from hf_meta_adapters.pretraining import train_tokenizer
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.methods import pretrain
from hf_meta_adapters.training._sampled_rows import SampledRows

LANGUAGES = ["en", "fr", "ru", "sw"]
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.1,
}
SETTINGS = {
    "fast": ("meta_fast", {"inner_learning_rate": 0.1}, 1.0),
    "next": ("meta_next", {"indirect_ratio": 0.2}, 0.5),
}
STEPS, MEASURED = 48, 20


@pytest.fixture(scope="module")
def texts_and_tokenizer():
    texts = read_texts("verses", "train", LANGUAGES, 400)
    lines = [line for several in texts.values() for line in several]
    return texts, train_tokenizer(lines, vocabulary=1000, max_length=32)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_the_chosen_share_keeps_the_cosine(monkeypatch, texts_and_tokenizer, name):
    """In the last steps, all of which are measured; the choice goes on in them as well."""
    is_due, learn, found = SampledRows.is_due, SampledRows.learn, []

    def recorded(rows, all_reduce):
        share, logs = rows.share, learn(rows, all_reduce)
        found.append((share, logs.get("mixed_rows_cosine")))
        return logs

    monkeypatch.setattr(
        SampledRows, "is_due", lambda rows, step: step >= STEPS - MEASURED or is_due(rows, step)
    )
    monkeypatch.setattr(SampledRows, "learn", recorded)
    method, options, most = SETTINGS[name]
    texts, tokenizer = texts_and_tokenizer
    pretrain(
        method,
        texts,
        tokenizer,
        model_type="xlm-roberta",
        sizes=SIZES,
        steps=STEPS,
        seed=0,
        mixed_rows="auto",
        per_device_train_batch_size=8,
        learning_rate=3e-3,
        **options,
    )

    # of all rows, the gradient in use is that of all rows, whatever that of a sample is
    kept = [1.0 if share == 1 else cosine for share, cosine in found[-MEASURED:]]
    assert statistics.mean(kept) >= TARGET
    assert sum(one >= TARGET for one in kept) >= 0.85 * MEASURED
    assert min(share for share, _ in found) <= most
