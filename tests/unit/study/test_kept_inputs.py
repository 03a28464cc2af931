"""What cells of one process share is what each would read by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForTokenClassification, XLMRobertaConfig, XLMRobertaForMaskedLM

from hf_meta_adapters.evaluation import NLI, POS, get_task
from hf_meta_adapters.evaluation._token_classification import TokenClassification
from hf_meta_adapters.study.kept_inputs import (
    kept_examples,
    kept_task,
    kept_tokenizer,
    new_head,
)
from tests.docs.conftest import tokenizer


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    torch.manual_seed(0)
    config = XLMRobertaConfig(vocab_size=320, intermediate_size=8, **sizes)
    XLMRobertaForMaskedLM(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def rows(*sentences: str) -> list[dict[str, Any]]:
    found = []
    for sentence in sentences:
        words = sentence.split()
        found.append({"tokens": words, "tags": ["NOUN"] * len(words)})
    return found


def test_examples_are_read_once(tmp_path: Path) -> None:
    file = tmp_path / "sw" / "train.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps(row) + "\n" for row in rows("a b", "c")))
    found = kept_examples(str(tmp_path), "train", "sw")
    assert found == rows("a b", "c")
    file.unlink()
    assert kept_examples(str(tmp_path), "train", "sw") is found


def test_features_are_those_of_the_task_in_any_order_and_number(encoder: str) -> None:
    task, words = kept_task("pos"), kept_tokenizer(encoder)
    assert isinstance(task, POS)
    assert isinstance(task, TokenClassification)
    assert (task.name, task.labels) == ("pos", get_task("pos").labels)

    long = rows("one two three", "four", " ".join("abcdefghij"), "five six")
    for chosen in ([0, 2], [2, 1, 3], [0, 0, 2], [3]):
        given = [long[number] for number in chosen]
        options: dict[str, Any] = {"language": "en", "max_length": 8}
        assert task.features(given, words, **options) == POS().features(given, words, **options)
    whole = POS().features(long, words, language="en")
    assert task.features(long, words, language="en") == whole  # another length, other windows


def test_an_example_is_tokenized_once(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, words, given = kept_task("nli"), kept_tokenizer(encoder), []
    given = [{"premise": "a", "hypothesis": letter, "label": "neutral"} for letter in "bcd"]
    first = task.features(given, words, language="en")
    monkeypatch.setattr(NLI, "features", None)
    assert task.features(given[::-1], words, language="en")[0]["input_ids"] == first[2]["input_ids"]


def equal(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    pairs = zip(left.parameters(), right.parameters(), strict=False)  # a head has no pooler
    return all(torch.equal(one, other) for one, other in pairs)


def test_a_model_is_that_of_from_pretrained_with_the_same_random_state(encoder: str) -> None:
    task = kept_task("pos")
    found = []
    for seed in (0, 0, 1):  # the first one reads the weights
        torch.manual_seed(seed)
        found.append((new_head(AutoModelForTokenClassification, encoder, task), torch.rand(1)))
    (first, after), (second, after_second), (other, _) = found
    assert first.config.label2id == task.label2id
    assert torch.equal(after, after_second)

    pretrained = XLMRobertaForMaskedLM.from_pretrained(encoder).roberta.state_dict()
    assert all(
        torch.equal(first.roberta.state_dict()[name], pretrained[name]) for name in pretrained
    )
    assert torch.equal(first.classifier.weight, second.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)

    # No model has the weights of another one, or those that are kept.
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    third = new_head(AutoModelForTokenClassification, encoder, task)
    for model in (second, third):
        assert all(
            torch.equal(model.roberta.state_dict()[one], pretrained[one]) for one in pretrained
        )
