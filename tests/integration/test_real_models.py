"""Real pretrained models through the whole chain: a family is trained, saved, pushed, loaded,
fine-tuned, and read by plain PEFT. What these models cost in time, `slow` says; where they are
absent, the tests say so.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import HfApi
from peft import LoraConfig, PeftModel
from torch import Tensor, nn

from hf_meta_adapters import (
    LanguageAdapterModel,
    MetaAdapterTrainer,
    MetaAdapterTrainingArguments,
    evaluate_languages,
    get_language_model,
)
from hf_meta_adapters.data import load_local_datasets
from hf_meta_adapters.evaluation import POS, majority_baseline
from hf_meta_adapters.finetuning import FinetuningSettings, finetune, load_for_task
from hf_meta_adapters.pretraining import tokenize
from tests.hub_client import connect, disconnect
from tests.hub_server import HubServer

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real models")]

ROOT = Path(__file__).resolve().parents[2]
FAMILY, TAGGER, SMALL, DECODER = "anna/family", "anna/tagger", "anna/small", "anna/decoder"
SOURCE, TARGET = "en", "fr"
LENGTH = 32

load = LanguageAdapterModel.from_pretrained


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """One Hub for all tests: what one pushes, the next loads."""
    with HubServer() as server, pytest.MonkeyPatch.context() as patch:
        connect(server, tmp_path_factory.mktemp("client"), patch)
        yield server
    disconnect()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real encoder, unpacked by the script beside it."""
    models = Path(os.environ.get("HF_META_ADAPTERS_MODELS", ROOT.parent / "shared" / "models"))
    script = models / "unpack.py"
    if not script.is_file():
        pytest.skip(
            f"NOT CHECKED ON A REAL ENCODER: {script} is absent; HF_META_ADAPTERS_MODELS names"
            " another folder."
        )
    folder = tmp_path_factory.mktemp("encoder")
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def decoder() -> Path:
    """SmolLM2 as a checkpoint of transformers: docs/how-to/small_llm.md says how it is made."""
    given = os.environ.get("HF_META_ADAPTERS_SMOLLM2", ROOT / "outputs" / "smollm2")
    if not (Path(given) / "config.json").is_file():
        pytest.skip(
            f"NOT CHECKED ON A REAL DECODER: {given} has no config.json;"
            " HF_META_ADAPTERS_SMOLLM2 names a folder with SmolLM2-135M."
        )
    # transformers 4 finds neither the tokenizer nor the rotary base in files of transformers 5.
    saved = json.loads((Path(given) / "config.json").read_text(encoding="utf-8"))
    version = saved["transformers_version"]
    if int(version.split(".")[0]) > int(transformers.__version__.split(".")[0]):
        pytest.skip(
            f"NOT CHECKED ON A REAL DECODER: {given} is of transformers {version}, and this is"
            f" {transformers.__version__}."
        )
    return Path(given)


def train(
    model: LanguageAdapterModel, data: Path, tokenizer: Any, folder: Path, **options: Any
) -> None:
    """Train on the first real text of each language, as a user would."""
    texts = load_local_datasets(data / "text", "train", languages=model.languages, limit=200)
    collator = None
    if tokenizer.mask_token is not None:
        collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)
    arguments = MetaAdapterTrainingArguments(
        str(folder),
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        use_cpu=True,
        **options,
    )
    rows = tokenize(texts, tokenizer, max_length=LENGTH)
    trainer = MetaAdapterTrainer(
        model.train(),
        arguments,
        train_dataset=rows,
        data_collator=collator,
        processing_class=tokenizer,
    )
    trainer.train()
    model.eval()


def held_out(model: LanguageAdapterModel, data: Path, tokenizer: Any, task: str) -> Mapping:
    """Bits per character of text that the model is not trained on."""
    texts = load_local_datasets(data / "text", "valid", languages=model.languages, limit=8)
    rows = {language: list(several) for language, several in texts.items()}
    return evaluate_languages(
        model.eval(), task, rows, processing_class=tokenizer, max_length=LENGTH
    ).values()


def logits(model: nn.Module, tokenizer: Any, **options: Any) -> Tensor:
    batch = tokenizer("Habari gani? Bonjour, my friend.", return_tensors="pt")
    with torch.no_grad():
        found: Tensor = model.eval()(**batch, **options).logits
    return found


def lora(rank: int) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")


@pytest.fixture(scope="module")
def pushed(
    encoder: Path, shared_data: Path, hub: HubServer, tmp_path_factory: pytest.TempPathFactory
) -> LanguageAdapterModel:
    """A family of the encoder, trained by meta-gradients and pushed."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    transformers.set_seed(0)
    base = transformers.AutoModelForMaskedLM.from_pretrained(encoder)
    adapter = LoraConfig(r=4, target_modules=["query", "value"])
    model = get_language_model(base, adapter, languages=[SOURCE, TARGET])

    before = held_out(model, shared_data, tokenizer, "masked_lm")
    folder = tmp_path_factory.mktemp("run")
    sizes = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 5e-4}
    train(model, shared_data, tokenizer, folder, preset="fast", fidelity_check_steps=0, **sizes)
    after = held_out(model, shared_data, tokenizer, "masked_lm")
    for language in model.languages:
        assert after[language] < before[language] - 0.1

    model.save_pretrained(folder / "family")
    assert torch.equal(
        logits(load(folder / "family"), tokenizer, language=TARGET),
        logits(model, tokenizer, language=TARGET),
    )
    model.push_to_hub(FAMILY, processing_class=tokenizer)
    return model


def test_a_family_comes_back_from_the_hub_and_by_plain_peft(pushed: LanguageAdapterModel) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(FAMILY)
    loaded = load(FAMILY)
    assert not torch.equal(
        logits(loaded, tokenizer, language=SOURCE), logits(loaded, tokenizer, language=TARGET)
    )
    for language in pushed.languages:
        expected = logits(pushed, tokenizer, language=language)
        assert torch.equal(logits(loaded, tokenizer, language=language), expected)

        base = transformers.AutoModelForMaskedLM.from_pretrained(FAMILY)
        plain = PeftModel.from_pretrained(base, FAMILY, subfolder=language)
        torch.testing.assert_close(logits(plain, tokenizer), expected, rtol=1e-5, atol=1e-5)


def test_tags_of_one_language_serve_another(
    pushed: LanguageAdapterModel, shared_data: Path
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(FAMILY)
    labelled = load_local_datasets(shared_data / "pos", "train", languages=[SOURCE], limit=200)
    test = load_local_datasets(shared_data / "pos", "test", languages=[TARGET], limit=30)
    task = POS()

    transformers.set_seed(0)
    model = load_for_task(
        FAMILY, transformers.AutoModelForTokenClassification, task, train="shared"
    )
    settings = FinetuningSettings(
        learning_rate=3e-4, max_steps=16, batch_size=8, max_length=32, training={"use_cpu": True}
    )
    finetune(model, task, labelled, tokenizer, settings)
    scores = evaluate_languages(model, task, test, processing_class=tokenizer)
    floor = majority_baseline(task, labelled[SOURCE], test).values()
    assert scores.values()[TARGET] > floor[TARGET] + 0.1

    model.push_to_hub(TAGGER, processing_class=tokenizer, scores=scores)
    loaded = load(TAGGER)
    again = evaluate_languages(loaded, task, test, processing_class=tokenizer)
    assert again.scores == scores.scores

    base = transformers.AutoModelForTokenClassification.from_pretrained(TAGGER)
    plain = PeftModel.from_pretrained(base, TAGGER, subfolder=TARGET)
    expected = logits(model, tokenizer, language=TARGET)
    torch.testing.assert_close(logits(plain, tokenizer), expected, rtol=1e-5, atol=1e-5)


def test_a_decoder_learns_a_language_and_is_served_by_plain_peft(
    decoder: Path, shared_data: Path, hub: HubServer, tmp_path: Path
) -> None:
    # A family over a frozen base names it, so that the base has to be on the Hub.
    HfApi().create_repo(SMALL)
    HfApi().upload_folder(repo_id=SMALL, folder_path=decoder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(SMALL)
    base = transformers.AutoModelForCausalLM.from_pretrained(SMALL, dtype=torch.float32)
    transformers.set_seed(0)
    model = get_language_model(base, lora(4), languages=["sw"], shared=lora(8))

    before = held_out(model, shared_data, tokenizer, "causal_lm")
    sizes = {"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 2e-3}
    train(model, shared_data, tokenizer, tmp_path / "run", adapter_update="train", **sizes)
    after = held_out(model, shared_data, tokenizer, "causal_lm")
    assert after["sw"] < before["sw"] - 0.1

    model.push_to_hub(DECODER, processing_class=tokenizer)
    assert "model.safetensors" not in hub.repositories[DECODER].files()
    expected = logits(model, tokenizer, language="sw")
    loaded = load(DECODER)
    assert torch.equal(logits(loaded, tokenizer, language="sw"), expected)

    loaded.export_lora("sw", tmp_path / "served")
    again = transformers.AutoModelForCausalLM.from_pretrained(SMALL, dtype=torch.float32)
    plain = PeftModel.from_pretrained(again, tmp_path / "served")
    torch.testing.assert_close(logits(plain, tokenizer), expected, rtol=1e-4, atol=1e-4)
