"""The memory of the conflict of many languages, against that of a training step."""

from __future__ import annotations

import gc

import pytest
import torch
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from hf_meta_adapters.diagnostics import gradient_conflict
from tests.invariant.test_memory import Peak

LANGUAGES = tuple(f"l{number}" for number in range(14))
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 256,
}


def model_and_batches(rows: int):
    model = XLMRobertaForMaskedLM(
        XLMRobertaConfig(vocab_size=2000, max_position_embeddings=40, **SIZES)
    )
    draw = torch.Generator().manual_seed(0)

    def batch():
        words = torch.randint(5, 2000, (rows, 32), generator=draw)
        return {"input_ids": words, "labels": words}

    return model, {key: [batch() for _ in range(4)] for key in LANGUAGES}


def training_step(model, batch):
    """Peak of a step of AdamW whose state is there already, above what lies there between steps."""
    optimizer = torch.optim.AdamW(model.parameters())

    def step():
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    model.train()
    step()
    gc.collect()
    with Peak() as peak:
        step()
    return peak.bytes


def conflict(model, batches, **settings):
    gc.collect()
    with Peak() as peak:
        found = gradient_conflict(model, batches, per_layer=True, resamples=0, **settings)
    assert found.matrix.shape == (len(batches), len(batches))
    return peak.bytes


@pytest.mark.parametrize("rows", [1, 16])
def test_projected_gradients_of_14_languages_fit_where_a_training_step_fits(rows):
    model, batches = model_and_batches(rows)
    step = training_step(model, batches["l0"][0])
    assert step > sum(
        p.numel() * 4 for p in model.parameters()
    )  # something was measured: a gradient at least
    assert conflict(model, batches, projection=256) <= 1.2 * step


def test_the_measure_sees_whole_gradients():
    model, batches = model_and_batches(1)
    assert conflict(model, batches) > 5 * training_step(model, batches["l0"][0])
