"""The pretraining recipes: from scratch and further, packed or not, resumed, and refused before any
work.
"""

import json
import runpy
import shutil
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from hf_meta_adapters import LanguageAdapterModel, MetaAdapterTrainingArguments
from hf_meta_adapters.cli.recipe_arguments import parse_arguments
from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.pretraining import PretrainingArguments, run_pretraining, tokenize
from hf_meta_adapters.pretraining.texts import balanced_texts
from hf_meta_adapters.pretraining.token_rows import pack_rows
from tests.docs.conftest import tokenizer as make_tokenizer

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {"mlm": ("masked_lm", AutoModelForMaskedLM), "clm": ("causal_lm", AutoModelForCausalLM)}
KINDS = (PretrainingArguments, MetaAdapterTrainingArguments)
SMALL = [
    "--vocabulary",
    "400",
    "--max_length",
    "24",
    "--limit",
    "60",
    "--per_device_train_batch_size",
    "2",
]
SMALL += [
    "--max_steps",
    "4",
    "--save_steps",
    "2",
    "--languages",
    "en",
    "sw",
    "--data",
    str(ROOT / "recipes" / "data"),
]


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [f"pretrain_{name}.py", *map(str, arguments)])
    runpy.run_path(str(ROOT / "recipes" / f"pretrain_{name}.py"), run_name="__main__")


def config(name: str) -> str:
    return str(ROOT / "recipes" / "configs" / f"pretrain_{name}.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_from_scratch_and_then_further(name, tmp_path, monkeypatch, capsys):
    run(name, monkeypatch, "--config", config(name), *SMALL, "--output_dir", tmp_path / "first")
    task, auto_class = RECIPES[name]
    scores = json.loads((tmp_path / "first" / "scores.json").read_text(encoding="utf-8"))
    assert scores["task"] == task
    assert set(scores["scores"]) == {"en", "sw"}
    assert "sw" in capsys.readouterr().out
    card = (tmp_path / "first" / "README.md").read_text(encoding="utf-8")
    assert "bits_per_character, as measured." in card
    assert all(
        f"| {value['bits_per_character']:.4g} |" in card for value in scores["scores"].values()
    )
    family = LanguageAdapterModel.from_pretrained(tmp_path / "first")
    assert family.languages == ("en", "sw")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "first")
    words = tokenizer("Hapo mwanzo", return_tensors="pt", return_token_type_ids=False)
    assert family(language="sw", **words).logits.isfinite().all()

    auto_class.from_pretrained(tmp_path / "first").save_pretrained(
        tmp_path / "theta"
    )  # θ alone, to go on from
    tokenizer.save_pretrained(tmp_path / "theta")
    given = [
        "--model",
        tmp_path / "theta",
        "--adapter",
        "layer_norm",
        "--adapter_update",
        "train",
        "--pack",
        "false",
    ]
    run(
        name,
        monkeypatch,
        *SMALL,
        *given,
        "--output_dir",
        tmp_path / "second",
        "--report_to",
        "none",
    )
    assert LanguageAdapterModel.from_pretrained(tmp_path / "second").languages == ("en", "sw")
    assert not (tmp_path / "second" / "scores.json").exists()  # nothing to score on was named


@pytest.mark.slow
def test_a_run_that_was_broken_off_goes_on(tmp_path, monkeypatch):
    given = ["--config", config("mlm"), *SMALL, "--eval_split", ""]
    run("mlm", monkeypatch, *given, "--output_dir", tmp_path)
    whole = LanguageAdapterModel.from_pretrained(tmp_path).state_dict()
    shutil.rmtree(tmp_path / "checkpoint-4")
    run("mlm", monkeypatch, *given, "--output_dir", tmp_path, "--resume", "true")
    parts = LanguageAdapterModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.slow
def test_one_call_does_what_the_recipe_does(tmp_path, monkeypatch):
    """The recipe shows its steps; `run_pretraining` takes the same ones."""
    given = ["--config", config("mlm"), *SMALL]
    run("mlm", monkeypatch, *given, "--output_dir", tmp_path / "recipe")

    args, training = parse_arguments(KINDS, [*given, "--output_dir", str(tmp_path / "call")])
    run_pretraining(args, training, AutoModelForMaskedLM, "masked_lm")

    for name in ("model.safetensors", "sw/adapter_model.safetensors", "scores.json"):
        by_recipe, by_call = (tmp_path / folder / name for folder in ("recipe", "call"))
        assert by_recipe.read_bytes() == by_call.read_bytes(), name


def test_a_tokenizer_learns_from_as_many_texts_of_each_language():
    texts = {
        "en": Dataset.from_dict({"text": ["a", "b", "c"]}),
        "sw": Dataset.from_dict({"text": ["d", "e"]}),
    }
    assert list(balanced_texts(texts)) == ["a", "b", "d", "e"]


def test_rows_are_filled_with_all_of_the_text_in_order():
    tokenizer, texts = make_tokenizer(), [f"Hapo mwanzo {number}" for number in range(30)]
    rows = list(pack_rows(tokenizer, texts, 10))
    assert {len(row) for row in rows} == {10}
    everything = list(chain(*tokenizer(texts)["input_ids"]))
    assert list(chain(*rows)) == everything[: len(rows) * 10]
    assert len(everything) - len(rows) * 10 < 10


def test_a_text_is_a_row_without_packing():
    tokenizer = make_tokenizer()
    texts = Dataset.from_dict({"text": ["Neno", "Hapo mwanzo " * 20]})
    rows = tokenize({"sw": texts}, tokenizer, max_length=12, pack=False)["sw"]
    assert rows["input_ids"][0] == tokenizer("Neno")["input_ids"]
    assert len(rows["input_ids"][1]) == len(rows["attention_mask"][1]) == 12


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"text": ["Neno"]}, r"a row of 512 tokens.*'sw'.*`pack=False`"),
        ({"line": ["Neno"]}, r"column `text`.*\['line'\]"),
    ],
)
def test_text_that_cannot_be_used_is_refused(rows, said):
    with pytest.raises(DataError, match=said):
        tokenize({"sw": Dataset.from_dict(rows)}, make_tokenizer(), max_length=512)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "either `model`"),
        ({"model": "a", "model_type": "b"}, "either `model`"),
        ({"model": "a", "adapter": "lora"}, r"'feed_forward'.*'lora'"),
    ],
)
def test_settings_that_contradict_are_refused(given, said):
    with pytest.raises(ConfigurationError, match=said):
        PretrainingArguments(**given)


@pytest.mark.parametrize("name", RECIPES)
def test_a_configuration_is_complete(name, tmp_path):
    text = Path(config(name)).read_text(encoding="utf-8")
    assert all(f"# {word}:" in text for word in ("Needs", "Takes", "Command", "Override"))
    args, training = parse_arguments(KINDS, ["--config", config(name), "--max_steps", "7"])
    settings = yaml.safe_load(text)
    assert (training.max_steps, training.learning_rate) == (7, float(settings["learning_rate"]))
    assert args.sizes == settings["sizes"]
    spoilt = tmp_path / "spoilt.yaml"
    spoilt.write_text(f"{text}\nlearning_speed: 3\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"`learning_speed` in .*`learning_rate`") as error:
        parse_arguments(KINDS, ["--config", str(spoilt), "--sede", "1"])
    assert "Found `--sede`. Did you mean `--seed`?" in str(error.value)
