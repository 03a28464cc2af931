"""The scores to beat, by protocol."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from hf_meta_adapters.evaluation import NLI, POS
from hf_meta_adapters.finetuning import FinetuningArguments, run_finetuning
from hf_meta_adapters.finetuning.scores import majority_scores
from tests.adapted import adapted
from tests.training import make_tokenizer

# The most frequent label is "neutral" in English and "entailment" in Swahili.
LABELS = {
    "en": ["neutral", "neutral", "contradiction", "neutral"],
    "sw": ["entailment", "entailment", "contradiction", "neutral"],
}
EXPECTED = {
    "within-language": {"en": 0.75, "sw": 0.5},
    "zero-shot": {"en": 0.75, "sw": 0.25},
    "few-shot": {"en": 0.75, "sw": 0.25},
}


def pairs(language: str) -> list[dict[str, str]]:
    return [{"premise": "w5 w6", "hypothesis": "w7", "label": one} for one in LABELS[language]]


@pytest.mark.parametrize("protocol", EXPECTED)
def test_by_hand(protocol: str) -> None:
    data = {language: pairs(language) for language in LABELS}
    assert majority_scores(protocol, NLI(), data, data) == EXPECTED[protocol]


def test_tags_within_a_language() -> None:
    def sentence(*tags: str) -> list[dict[str, list[str]]]:
        return [{"tokens": ["w5"] * len(tags), "tags": list(tags)}]

    data = {"en": sentence("NOUN", "NOUN", "VERB"), "sw": sentence("VERB", "VERB", "VERB", "DET")}
    found = majority_scores("within-language", POS(), data, data)
    assert found == {"en": pytest.approx(2 / 3), "sw": 0.75}


@pytest.mark.filterwarnings("ignore::hf_meta_adapters.evaluation.ConstantPredictionWarning")
@pytest.mark.filterwarnings("ignore::hf_meta_adapters.evaluation.MiswiringWarning")
def test_in_the_files_of_an_experiment(tmp_path: Path) -> None:
    adapted("bert", "lora").save_pretrained(tmp_path / "family")
    make_tokenizer().save_pretrained(tmp_path / "family")
    for language in LABELS:
        (tmp_path / "data" / language).mkdir(parents=True)
        lines = "\n".join(json.dumps(row) for row in pairs(language))
        for split in ("train", "test"):
            (tmp_path / "data" / language / f"{split}.jsonl").write_text(lines)

    args = FinetuningArguments(
        model=str(tmp_path / "family"),
        data=str(tmp_path / "data"),
        output_dir=str(tmp_path / "out"),
        protocol="within-language",
        max_steps=1,
        per_device_train_batch_size=2,
    )
    run_finetuning(args, NLI(), transformers.AutoModelForSequenceClassification)
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert found["majority"] == EXPECTED["within-language"]
