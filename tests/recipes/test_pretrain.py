"""The pretraining recipes: from scratch and further, packed or not, resumed, and refused before any
work.
"""

import json
import re
import runpy
import shlex
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
from hf_meta_adapters.pretraining.evaluating import evaluation_callbacks
from hf_meta_adapters.pretraining.resuming import checkpoint_to_resume
from hf_meta_adapters.pretraining.texts import balanced_texts
from hf_meta_adapters.pretraining.token_rows import pack_rows
from tests.docs.conftest import tokenizer as make_tokenizer
from tests.tiny import tiny

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
def test_the_command_of_the_page_about_little_data_runs(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "how-to" / "little_data.md").read_text(encoding="utf-8")
    block = re.search(r"```bash\n(.*?)```", page, re.DOTALL)[1]
    command, verb, recipe, *given = shlex.split(block.split("\n\n")[0].replace("\\\n", " "))
    assert (command, verb, recipe) == ("hf-meta-adapters", "run", "pretrain_mlm")

    # In miniature: as the page has it, with the words in capitals filled in.
    given = ["verses" if one == "TEXTS" else one for one in given]
    named = given.index("--config") + 1
    given[named] = config("mlm")
    run("mlm", monkeypatch, *given, *SMALL, "--output_dir", tmp_path)
    assert "lookahead" in (tmp_path / "README.md").read_text(encoding="utf-8")


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
    given += ["--output_dir", tmp_path, "--resume_from_checkpoint", "last"]
    run("mlm", monkeypatch, *given)
    parts = LanguageAdapterModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.slow
def test_one_call_does_what_the_recipe_does(tmp_path, monkeypatch):
    """The recipe shows its steps; `run_pretraining` takes the same ones."""
    given = ["--config", config("mlm"), *SMALL, "--meta_dataset", "train"]
    run("mlm", monkeypatch, *given, "--output_dir", tmp_path / "recipe")

    args, training = parse_arguments(KINDS, [*given, "--output_dir", str(tmp_path / "call")])
    run_pretraining(args, training, AutoModelForMaskedLM, "masked_lm")

    for name in ("model.safetensors", "sw/adapter_model.safetensors", "scores.json"):
        by_recipe, by_call = (tmp_path / folder / name for folder in ("recipe", "call"))
        assert by_recipe.read_bytes() == by_call.read_bytes(), name
    manifest = (tmp_path / "recipe" / "language_adapters.json").read_text(encoding="utf-8")
    assert '"meta_dataset": "train"' in manifest


@pytest.mark.slow
def test_a_run_evaluates_while_it_trains_and_stops_early(tmp_path, monkeypatch):
    """`eval_split` is the Trainer's `eval_dataset`; the best model is the one that is scored."""
    given = ["--config", config("mlm"), *SMALL, "--max_steps", "12", "--learning_rate", "0"]
    given += ["--eval_split", "valid", "--eval_strategy", "steps", "--eval_steps", "2"]
    given += ["--load_best_model_at_end", "true", "--metric_for_best_model", "loss"]
    given += ["--early_stopping_patience", "2", "--use_cpu", "true", "--output_dir", tmp_path]
    run("mlm", monkeypatch, *given)

    # Nothing is learned at a rate of 0: the second and the third evaluation are no better.
    last = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    evaluated = [line for line in last["log_history"] if "eval_loss" in line]
    assert [line["step"] for line in evaluated] == [2, 4, 6]
    mean = sum(evaluated[0][f"eval_{language}_loss"] for language in ("en", "sw")) / 2
    assert evaluated[0]["eval_loss"] == pytest.approx(mean)
    assert Path(last["best_model_checkpoint"]).name == "checkpoint-2"
    assert not (tmp_path / "checkpoint-8").exists()
    assert (tmp_path / "scores.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_checkpoint_in_bfloat16_is_trained_as_documented(name, tmp_path, monkeypatch):
    """Most decoders are stored in it. By default θ is in float32; as a LoRA it is over any base."""
    sizes = tiny(name).config()
    words = make_tokenizer()
    sizes.vocab_size, sizes.max_position_embeddings = len(words), 128
    sizes.pad_token_id, sizes.eos_token_id, sizes.bos_token_id = 1, 2, 0
    AutoModelForCausalLM.from_config(sizes, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    words.save_pretrained(tmp_path / "base")
    assert json.loads((tmp_path / "base" / "config.json").read_text())["dtype"] == "bfloat16"

    given = [*SMALL, "--model", tmp_path / "base", "--bf16", "true", "--use_cpu", "true"]
    given += ["--max_steps", "1", "--save_strategy", "no", "--report_to", "none"]
    run("clm", monkeypatch, *given, "--output_dir", tmp_path / "all")
    family = LanguageAdapterModel.from_pretrained(tmp_path / "all")
    assert {one.dtype for one in family.parameters()} == {torch.float32}

    lora = ["--shared", "lora", "--adapter", "lora", "--dtype", "auto"]
    run("clm", monkeypatch, *given, *lora, "--output_dir", tmp_path / "lora")
    family = LanguageAdapterModel.from_pretrained(tmp_path / "lora")
    assert family.base_model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert {one.dtype for one in family.shared_parameters().values()} == {torch.float32}

    # What the default estimator cannot do is refused, with the option that cures it.
    with pytest.raises(ConfigurationError, match="`--dtype float32` in a recipe"):
        run("clm", monkeypatch, *given, "--dtype", "bfloat16", "--output_dir", tmp_path / "bad")


@pytest.mark.parametrize(
    ("args", "training", "said"),
    [
        ({}, {"eval_strategy": "steps"}, "Evaluation during training needs held-out text"),
        ({"early_stopping_patience": 2}, {}, "Add for example `--eval_split valid"),
        (
            {"early_stopping_patience": 0, "eval_split": "valid"},
            {"eval_strategy": "steps", "metric_for_best_model": "loss"},
            "at least 1.* Found 0",
        ),
        (
            {"eval_split": "valid"},
            {"eval_strategy": "steps", "metric_for_best_model": "f1"},
            r"\['eval_loss', 'eval_en_loss', 'eval_sw_loss'\]. Found 'f1'",
        ),
    ],
)
def test_evaluation_that_cannot_take_place_is_refused(args, training, said):
    given = MetaAdapterTrainingArguments("out", report_to="none", eval_steps=1, **training)
    settings = PretrainingArguments(model="a", **args)
    with pytest.raises(ConfigurationError, match=said):
        evaluation_callbacks(settings, given, ["en", "sw"])


@pytest.mark.parametrize("metric", ["loss", "eval_loss", "sw_loss", "eval_sw_loss", None])
def test_metrics_that_are_logged_can_choose_the_best_model(metric):
    given = MetaAdapterTrainingArguments("out", report_to="none", metric_for_best_model=metric)
    assert evaluation_callbacks(PretrainingArguments(model="a"), given, ["en", "sw"]) == []


@pytest.mark.parametrize(
    ("resume", "given", "found"),
    [
        (False, None, None),
        (True, None, True),
        (True, "last", True),
        (False, "true", True),
        (False, True, True),
        (False, "false", None),
        (False, "out/checkpoint-2", "out/checkpoint-2"),
    ],
)
def test_where_a_run_resumes(resume, given, found):
    training = MetaAdapterTrainingArguments("out", report_to="none", resume_from_checkpoint=given)
    assert checkpoint_to_resume(PretrainingArguments(model="a", resume=resume), training) == found


def test_a_run_resumes_from_one_checkpoint():
    training = MetaAdapterTrainingArguments("out", report_to="none", resume_from_checkpoint="one")
    with pytest.raises(ConfigurationError, match=r"`resume`, the newest, and .*'one'"):
        checkpoint_to_resume(PretrainingArguments(model="a", resume=True), training)


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
        ({"model": "a", "adapter": "loar"}, r"'feed_forward'.*'loar'"),
        (
            {"model": "a", "shared": "none"},
            r"`shared` .*'all', 'lora'\]. Found 'none'",
        ),
        (
            {"model": "a", "dtype": "fp32"},
            r"`dtype` .*'auto'\]. Found 'fp32'",
        ),
        ({"model": "a", "shared": "lora", "share_adapter": True}, "`--adapter none --shared lora`"),
        ({"model": "a", "meta_dataset": "valid"}, r"`meta_dataset` .*'train'\]. Found 'valid'"),
    ],
)
def test_settings_that_contradict_are_refused(given, said):
    with pytest.raises(ConfigurationError, match=said):
        PretrainingArguments(**given)


def test_meta_rows_from_the_training_rows_need_a_run_that_reads_meta_rows():
    args = PretrainingArguments(model="a", meta_dataset="train")
    assert args.meta_data(MetaAdapterTrainingArguments("outputs", report_to="none")) == "train"
    for name, value in {"adapter_update": "train", "lookahead": "next"}.items():
        training = MetaAdapterTrainingArguments("outputs", report_to="none", **{name: value})
        with pytest.raises(ConfigurationError, match=f"together with `{name}='{value}'`"):
            args.meta_data(training)
        assert PretrainingArguments(model="a").meta_data(training) is None


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
