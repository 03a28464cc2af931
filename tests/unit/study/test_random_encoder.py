"""The encoder of the smallest studies, made from the examples of any task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForMaskedLM, AutoTokenizer

from hf_meta_adapters.study.random_encoder import random_encoder

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TASKS = {
    "pos": {"tokens": ["hapo", "mwanzo"], "tags": ["ADV", "NOUN"]},
    "nli": {"premise": "hapo mwanzo", "hypothesis": "mwanzo", "label": 0},
    "qa": {"question": "mwanzo", "context": "hapo mwanzo", "answers": {"text": ["hapo"]}},
}


@pytest.mark.parametrize("task", TASKS)
def test_its_tokenizer_knows_the_words_of_the_task(task: str, tmp_path: Path) -> None:
    file = tmp_path / "data" / "sw" / "train.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(TASKS[task]) + "\n", encoding="utf-8")

    made = random_encoder(tmp_path / "encoder", tmp_path / "data", ["sw"], SIZES)
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert tokenizer.tokenize("hapo mwanzo") == ["▁hapo", "▁mwanzo"]
    assert AutoModelForMaskedLM.from_pretrained(made).config.vocab_size >= len(tokenizer)

    # what is there is kept
    written = (tmp_path / "encoder" / "config.json").stat().st_mtime_ns
    assert random_encoder(tmp_path / "encoder", tmp_path / "nowhere", ["sw"], {}) == made
    assert (tmp_path / "encoder" / "config.json").stat().st_mtime_ns == written
