"""The fine-tuning recipes run by every protocol and configuration, on local files in the formats of
the Hub's data.
"""

import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from peft import LoraConfig, PromptTuningConfig
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaForTokenClassification,
)

from hf_meta_adapters import BottleneckConfig, LanguageAdapterModel, get_language_model
from hf_meta_adapters.cli import parse_arguments
from hf_meta_adapters.data import load_language_datasets
from hf_meta_adapters.errors import ConfigurationError, DataError, LanguageError
from hf_meta_adapters.evaluation import NER, NLI, POS, MiswiringWarning, evaluate_languages
from hf_meta_adapters.finetuning import (
    FinetuningArguments,
    FinetuningSettings,
    finetune,
    load_for_task,
    run_finetuning,
    zero_shot,
)
from hf_meta_adapters.finetuning.labelled_data import load_labelled_data, load_selection_data
from tests.docs.conftest import tokenizer as make_tokenizer

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "recipes" / "configs"
RECIPES = {
    "wikiann": "finetune_token_classification",
    "universal_dependencies": "finetune_token_classification",
    "tydiqa": "finetune_question_answering",
    "xnli": "finetune_nli",
}
LANGUAGES = ("en", "sw", "te")
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
NAMES = {"en": "Anna", "sw": "Asha", "te": "Rama"}
QUICK = [
    "--max_steps",
    "60",
    "--learning_rate",
    "0.02",
    "--per_device_train_batch_size",
    "8",
    "--max_length",
    "48",
    "--train",
    "all",
]


def row(task: str, language: str, number: int) -> dict:
    """An example whose label can be read off its words, in every language alike."""
    name = NAMES[language]
    if task == "wikiann":
        return {"tokens": ["x", name, "saw", str(number)], "tags": ["O", "B-PER", "O", "O"]}
    if task == "universal_dependencies":
        return {"tokens": ["x", name, "saw", str(number)], "tags": ["DET", "PROPN", "VERB", "NUM"]}
    if task == "tydiqa":
        answer = {"text": [name], "answer_start": [4]}
        return {
            "id": f"{language}-{number}",
            "question": "who",
            "context": f"it: {name} {number}",
            "answers": answer,
        }
    label = ("entailment", "neutral", "contradiction")[number % 3]
    return {"id": str(number), "premise": name, "hypothesis": "?!."[number % 3], "label": label}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved family whose adapters differ."""
    folder = tmp_path_factory.mktemp("family")
    torch.manual_seed(0)
    base = XLMRobertaForMaskedLM(
        XLMRobertaConfig(vocab_size=320, max_position_embeddings=130, pad_token_id=1, **SIZES)
    )
    model = get_language_model(base, BottleneckConfig(bottleneck_size=4), [*LANGUAGES, "fr"])
    with torch.no_grad():
        for language in model.languages:
            for parameter in model.language_parameters(language).values():
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled data of every task, in one folder each."""
    folder = tmp_path_factory.mktemp("data")
    for task in RECIPES:
        for language in LANGUAGES:
            (folder / task / language).mkdir(parents=True)
            # The rows to select a model on are no training rows.
            for split, numbers in (
                ("train", range(24)),
                ("test", range(6)),
                ("validation", range(30, 36)),
            ):
                lines = [json.dumps(row(task, language, number)) for number in numbers]
                (folder / task / language / f"{split}.jsonl").write_text(
                    "\n".join(lines), encoding="utf-8"
                )
    return folder


def run(recipe: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [f"{recipe}.py", *map(str, arguments)])
    runpy.run_path(str(ROOT / "recipes" / f"{recipe}.py"), run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_configuration_runs_zero_shot_and_learns(
    name, family, data, tmp_path, monkeypatch, capsys
):
    given = [
        "--config",
        CONFIGS / f"{name}.yaml",
        "--model",
        family,
        "--data",
        data / name,
        "--languages",
        *LANGUAGES,
    ]
    run(RECIPES[name], monkeypatch, *given, *QUICK, "--output_dir", tmp_path)
    written = {path.name for path in tmp_path.iterdir()}
    assert written >= {"scores.json", "scores.md", "scores.png", "language_adapters.json", "en"}
    found = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert set(found["scores"]) == set(LANGUAGES)
    assert found["source_language"] == found["arguments"]["source_language"] == "en"
    if name in ("wikiann", "universal_dependencies"):
        assert found["scores"]["en"][found["metric"]] > max(0.5, found["majority"]["en"])
    assert "zero-shot mean" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "protocol",
    ["within-language", "few-shot", "joint-few-shot", "meta-few-shot", "projected-few-shot"],
)
def test_the_other_protocols(protocol, family, data, tmp_path, monkeypatch):
    given = [
        "--model",
        family,
        "--data",
        data / "universal_dependencies",
        "--task",
        "pos",
        "--languages",
        "en",
        "te",
    ]
    recipe = "finetune_token_classification"
    run(
        recipe,
        monkeypatch,
        *given,
        *QUICK,
        "--protocol",
        protocol,
        "--shots",
        "8",
        "--output_dir",
        tmp_path,
        "--eval_split",
        "validation",
        *(["--target_role", "split"] if protocol.startswith(("meta", "proj")) else []),
    )
    found = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert found["source_language"] is None
    assert found["examples"] == {"en": 6, "te": 6}
    for language in ("en", "te"):
        assert found["scores"][language]["accuracy"] > found["majority"][language]
    folders = {"within-language": "models/te", "few-shot": "models/te"}
    model = LanguageAdapterModel.from_pretrained(tmp_path / folders.get(protocol, "."))
    rows = load_language_datasets(data / "universal_dependencies", "test", languages=["te"])
    again = evaluate_languages(model, POS(), rows, processing_class=make_tokenizer())
    assert again.values()["te"] == found["scores"]["te"]["accuracy"]
    assert all(stage["best_step"] for stage in found["details"]["stages"].values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hf_meta_adapters.evaluation.ConstantPredictionWarning")
@pytest.mark.filterwarnings("ignore::hf_meta_adapters.evaluation.MiswiringWarning")
def test_one_call_does_what_the_recipe_does(family, data, tmp_path, monkeypatch):
    """The recipe shows its steps; `run_finetuning` takes the same ones."""
    given = ["--model", family, "--data", data / "xnli", "--languages", "en", "sw"]
    given = [*map(str, given), "--max_steps", "3", "--per_device_train_batch_size", "8"]
    run("finetune_nli", monkeypatch, *given, "--output_dir", tmp_path / "recipe")

    args = parse_arguments(FinetuningArguments, [*given, "--output_dir", str(tmp_path / "call")])
    run_finetuning(args, NLI(), AutoModelForSequenceClassification)

    by_recipe, by_call = (
        json.loads((tmp_path / folder / "scores.json").read_text(encoding="utf-8"))
        for folder in ("recipe", "call")
    )
    for record in (by_recipe, by_call):
        del record["seconds"], record["arguments"]["output_dir"]
    assert by_recipe == by_call


def test_languages_without_data_are_left_out_by_name(family, data, tmp_path, caplog):
    """Nobody named the languages: those that can be scored are."""
    folder = shutil.copytree(data / "xnli", tmp_path / "data")
    (folder / "sw" / "train.jsonl").unlink()
    (folder / "te" / "test.jsonl").unlink()
    given = {"model": str(family), "data": str(folder)}
    train, test = load_labelled_data(FinetuningArguments(**given, protocol="joint-few-shot"))
    assert (list(train), list(test)) == (["en"], ["en", "sw"])
    assert "No labels of te, fr in" in caplog.text
    train, test = load_labelled_data(FinetuningArguments(**given, protocol="within-language"))
    assert (list(train), list(test)) == (["en"], ["en"])
    with pytest.raises(DataError, match=r"te: .*train"):
        load_labelled_data(FinetuningArguments(**given, languages=["te"]))
    with pytest.raises(DataError, match=r"no 'dev' of \['en', 'sw'\]"):
        load_selection_data(FinetuningArguments(**given, eval_split="dev"), ["en", "sw"])
    assert load_selection_data(FinetuningArguments(**given), ["en"]) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "number"), [*(("few_labels", number) for number in range(4)), ("little_data", 1)]
)
@pytest.mark.filterwarnings("ignore::hf_meta_adapters.evaluation.ConstantPredictionWarning")
@pytest.mark.filterwarnings("ignore::hf_meta_adapters.evaluation.MiswiringWarning")
def test_the_commands_of_the_pages_about_few_labels_run(
    page, number, family, data, tmp_path, monkeypatch
):
    text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text(encoding="utf-8")
    block = re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1]
    commands = block.strip().split("\n\n")
    assert len(commands) == {"few_labels": 4, "little_data": 2}[page]
    command, verb, recipe, *given = shlex.split(commands[number].replace("\\\n", " "))
    assert (command, verb) == ("hf-meta-adapters", "run")

    # In miniature: as the page has it, with the words in capitals filled in.
    places = {
        "MODEL": family,
        "DATA/pos": data / "universal_dependencies",
        "DATA/nli": data / "xnli",
    }
    small = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--shots", "6"]
    given = [places.get(one, one) for one in given]
    run(recipe, monkeypatch, *given, *small, "--output_dir", tmp_path)
    found = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert set(found["scores"]) == set(LANGUAGES)
    assert found["details"]["protocol"].endswith("few-shot")


@pytest.mark.parametrize(
    ("protocol", "labelled"),
    [
        ("zero-shot", ["en"]),
        ("within-language", ["te", "sw"]),
        ("few-shot", ["en", "te", "sw"]),
    ],
)
def test_the_protocol_says_whose_labels_are_loaded(protocol, labelled, family, data):
    args = FinetuningArguments(
        model=str(family),
        data=str(data / "xnli"),
        protocol=protocol,
        languages=["te", "sw"],
        train_limit=3,
        test_limit=2,
    )
    train, test = load_labelled_data(args)
    assert list(train) == labelled
    assert list(test) == ["te", "sw"]
    assert {len(rows) for rows in train.values()} == {3}
    assert {len(rows) for rows in test.values()} == {2}


@pytest.mark.parametrize("name", RECIPES)
def test_a_configuration_says_what_it_needs_and_names_the_hub(name):
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    assert all(f"# {word}:" in text for word in ("Needs", "Takes", "Command", "Override"))
    settings = yaml.safe_load(text)
    missing = {
        "wikiann": [],
        "universal_dependencies": ["sw"],
        "tydiqa": ["fr", "hi"],
        "xnli": ["te"],
    }[name]
    assert sorted(settings["languages"]) == sorted(
        {"en", "ar", "fr", "ru", "hi", "sw", "te"} - set(missing)
    )
    for names in (settings.get("names"), settings.get("id_prefixes")):
        assert names is None or set(names) == set(settings["languages"])


@pytest.mark.parametrize(
    ("train", "body", "adapter"),
    [
        ("head", False, False),
        ("adapters", False, True),
        ("shared", True, False),
        ("all", True, True),
    ],
)
def test_what_is_trained_moves_and_nothing_else(train, body, adapter, family, data):
    task, tokenizer = POS(), make_tokenizer()
    rows = load_language_datasets(data / "universal_dependencies", "train", languages=["en"])
    model = load_for_task(family, AutoModelForTokenClassification, task, train=train)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    model.train_only(*model.languages, shared=True)
    owner = {name: key for key in model.languages for name in model.language_parameters(key)}
    model = load_for_task(family, AutoModelForTokenClassification, task, train=train)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(before[name])
    finetune(
        model,
        task,
        rows,
        tokenizer,
        FinetuningSettings(learning_rate=0.01, max_steps=3, batch_size=8),
    )
    moved = {
        name for name, value in model.named_parameters() if not torch.equal(value, before[name])
    }
    assert {owner[name] for name in moved if name in owner} == ({"en"} if adapter else set())
    assert any("classifier" in name for name in moved)
    assert any("classifier" not in name and name not in owner for name in moved) == body


@pytest.mark.parametrize(
    "adapter",
    [
        "task_adapter",
        BottleneckConfig(bottleneck_size=4),
        LoraConfig(r=2, target_modules=["query"]),
    ],
)
@pytest.mark.parametrize(
    "auto_class", [AutoModelForTokenClassification, XLMRobertaForTokenClassification]
)
def test_a_task_adapter_is_stacked_on_every_language(adapter, auto_class, family, data, tmp_path):
    task, tokenizer = POS(), make_tokenizer()
    rows = load_language_datasets(data / "universal_dependencies", "train", languages=["en"])
    plain = LanguageAdapterModel.from_pretrained(family)
    frozen = {name: value.clone() for name, value in plain.base_model.roberta.state_dict().items()}
    model = load_for_task(family, auto_class, task, train=adapter)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert any("classifier" in name for name in trained)
    assert not any("original_module" in name for name in trained)
    settings = FinetuningSettings(learning_rate=0.01, max_steps=30, batch_size=8)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    finetune(model, task, rows, tokenizer, settings)
    moved = {
        name for name, value in model.named_parameters() if not torch.equal(value, before[name])
    }
    assert moved == trained
    for (
        name,
        value,
    ) in model.base_model.roberta.state_dict().items():  # θ and every φ are as they were pretrained
        if name in frozen:
            assert torch.equal(value, frozen[name])
    test = load_language_datasets(data / "universal_dependencies", "test", languages=LANGUAGES)
    scores = evaluate_languages(model, task, test, processing_class=tokenizer).values()
    assert scores["en"] > 0.6
    words = tokenizer(["x Anna saw 1"], return_tensors="pt")
    with torch.no_grad():
        logits = {key: model(language=key, **words).logits for key in LANGUAGES}
    assert not torch.equal(logits["en"], logits["sw"])  # φ still matters under it
    model.save_pretrained(tmp_path)
    loaded = LanguageAdapterModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert all(
            torch.equal(loaded(language=key, **words).logits, logits[key]) for key in LANGUAGES
        )


def test_a_task_adapter_needs_a_place_for_the_head(family):
    with pytest.raises(ConfigurationError, match=r"`modules_to_save`.*`dict`"):
        load_for_task(family, AutoModelForTokenClassification, POS(), train={"r": 8})
    with pytest.raises(
        ConfigurationError, match=r"puts layers into the model.*`PromptTuningConfig`"
    ):
        load_for_task(family, AutoModelForTokenClassification, POS(), train=PromptTuningConfig())
    with pytest.raises(ConfigurationError, match=r"'task_adapter'.*'no'"):
        load_for_task(family, AutoModelForTokenClassification, POS(), train="no")


def test_the_adapter_of_the_source_is_not_that_of_the_target(family, data):
    """Swapping φ_source for φ_l changes what is predicted."""
    task, tokenizer = POS(), make_tokenizer()
    rows = load_language_datasets(data / "universal_dependencies", "test", languages=["sw"])
    model = load_for_task(family, AutoModelForTokenClassification, task)
    logits = []
    for key in ("en", "sw"):
        with model.use_language(key), torch.no_grad():
            logits.append(model(**tokenizer(["x Asha saw 1"], return_tensors="pt")).logits)
    assert not torch.equal(*logits)
    with pytest.raises(LanguageError, match="'xx'"):
        evaluate_languages(model, task, {"xx": rows["sw"]}, processing_class=tokenizer)


def test_a_family_whose_adapters_agree_is_noticed(tmp_path, data):
    base = XLMRobertaForMaskedLM(
        XLMRobertaConfig(vocab_size=320, max_position_embeddings=130, pad_token_id=1, **SIZES)
    )
    get_language_model(base, BottleneckConfig(bottleneck_size=4), ["en", "sw"]).save_pretrained(
        tmp_path
    )
    task, given = POS(), {"languages": ["en", "sw"]}
    rows = [
        load_language_datasets(data / "universal_dependencies", split, **given)
        for split in ("train", "test")
    ]
    settings = FinetuningSettings(learning_rate=0.02, max_steps=40, batch_size=8)

    def make_model():
        return load_for_task(tmp_path, AutoModelForTokenClassification, task, train="shared")

    with pytest.warns(
        MiswiringWarning, match=r"adapters of \['sw'\] give the same output as that of 'en'"
    ):
        zero_shot(make_model, task, *rows, make_tokenizer(), settings)


def test_a_head_that_stands_still_is_an_error(family, data):
    rows = load_language_datasets(data / "universal_dependencies", "train", languages=["en"])
    model = load_for_task(family, AutoModelForTokenClassification, POS())
    settings = FinetuningSettings(learning_rate=0.0, max_steps=1)
    with pytest.raises(ConfigurationError, match=r"classifier\.weight"):
        finetune(model, POS(), rows, make_tokenizer(), settings)


@pytest.mark.filterwarnings("ignore::hf_meta_adapters.evaluation.ConstantPredictionWarning")
def test_a_model_that_learned_nothing_is_noticed(family, data):
    """A score of 0 is not passed over in silence."""
    rows = load_language_datasets(data / "wikiann", "train", languages=["en"])
    settings = FinetuningSettings(learning_rate=1e-6, max_steps=1)

    def make_model():
        model = load_for_task(family, AutoModelForTokenClassification, NER())
        with torch.no_grad():
            model.base_model.classifier.bias[0] += 10.0  # O everywhere
        return model

    with pytest.warns(MiswiringWarning, match=r"f1 of 0\.000 on its own training examples in 'en'"):
        zero_shot(make_model, NER(), rows, rows, make_tokenizer(), settings)


def test_what_cannot_work_is_refused(family, tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match=r"`train` must be one of .*Found 'body'"):
        load_for_task(family, AutoModelForTokenClassification, POS(), train="body")
    with pytest.raises(ConfigurationError, match="`model` and `data` must be given"):
        run("finetune_nli", monkeypatch, "--model", family)
    (tmp_path / "bad.yaml").write_text("modle: here", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"Found `modle` .* Did you mean `model`"):
        run("finetune_nli", monkeypatch, "--config", tmp_path / "bad.yaml")


def test_data_of_the_hub_is_asked_for_by_name_and_cut_by_id(monkeypatch):
    asked = []

    def load_dataset(*given, **options):
        asked.append((given, options))
        return datasets.Dataset.from_list(
            [{"id": f"{name}-{n}"} for n in range(3) for name in ("english", "arabic")]
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    options = {
        "names": {"en": "part", "ar": "part"},
        "id_prefixes": {"en": "english-", "ar": "arabic-"},
    }
    found = load_language_datasets(
        "a/b", "train", languages=["ar"], limit=2, revision="r", **options
    )
    assert found["ar"]["id"][:] == ["arabic-0", "arabic-1"]
    assert asked == [(("a/b", "part"), {"split": "train", "revision": "r"})]
    with pytest.raises(LanguageError, match="'te'"):
        load_language_datasets("a/b", "train", languages=["te"], **options)
    with pytest.raises(DataError, match="Found none of 'ar'"):
        load_language_datasets("a/b", "train", languages=["ar"], id_prefixes={"ar": "telugu-"})
