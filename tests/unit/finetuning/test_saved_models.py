"""Fine-tuned models are saved, published, and loaded again, with this package and without it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel

from hf_meta_adapters import LanguageAdapterModel, evaluate_languages
from hf_meta_adapters.errors import ConfigurationError, HubError
from hf_meta_adapters.evaluation import POS
from hf_meta_adapters.finetuning import (
    FinetuningArguments,
    few_shot,
    joint_few_shot,
    load_for_task,
    run_finetuning,
)
from tests.hub_client import connect, disconnect
from tests.hub_server import HubServer
from tests.unit.finetuning.family import (
    QUICK,
    kept,
    labelled,
    maker,
    saved_family,
    word_tokenizer,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::hf_meta_adapters.evaluation.ConstantPredictionWarning"),
    pytest.mark.filterwarnings("ignore::hf_meta_adapters.evaluation.MiswiringWarning"),
]
TRAIN = labelled("train", en=8, sw=6)
TEST = labelled("test", en=3, sw=3)
AUTO = transformers.AutoModelForTokenClassification


@pytest.fixture
def hub(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """A running Hub that the client of this process speaks to."""
    with HubServer() as server:
        connect(server, tmp_path_factory.mktemp("client"), monkeypatch)
        yield server
    monkeypatch.undo()
    disconnect()


def logits(model: Any, tokenizer: Any, language: str | None = None) -> torch.Tensor:
    words = tokenizer([" ".join(row["tokens"]) for row in TEST["sw"]], return_tensors="pt")
    given = {} if language is None else {"language": language}
    with torch.no_grad():
        found: torch.Tensor = model(**words, **given).logits
    return found


@pytest.mark.parametrize("config", ["bottleneck", "lora"])
def test_a_saved_model_predicts_the_same(config: str, tmp_path: Path) -> None:
    from peft import LoraConfig

    adapter = LoraConfig(r=2, target_modules=["query"]) if config == "lora" else config
    family = saved_family(tmp_path / "family", config=adapter)
    made: list[Any] = []
    scores = joint_few_shot(
        kept(made, maker(family)),
        POS(),
        TRAIN,
        TEST,
        word_tokenizer(),
        QUICK,
        shots=4,
        save_directory=tmp_path / "saved",
    )
    folder = str(tmp_path / "saved")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = logits(made[0], tokenizer, "sw")

    # With this package: head, θ, φ, names of the classes, tokenizer.
    loaded = LanguageAdapterModel.from_pretrained(folder)
    assert torch.equal(logits(loaded, tokenizer, "sw"), expected)
    assert loaded.config.id2label == POS().id2label
    again = evaluate_languages(loaded, POS(), TEST, processing_class=tokenizer)
    assert again.scores == scores.scores

    # With transformers and PEFT alone.
    plain = AUTO.from_pretrained(folder)
    other = PeftModel.from_pretrained(plain, folder, subfolder="sw").eval()
    torch.testing.assert_close(logits(other, tokenizer), expected)
    assert not torch.allclose(logits(loaded, tokenizer, "en"), expected)

    # The card has the scores, and the manifest how they came about.
    details = json.loads((tmp_path / "saved" / "language_adapters.json").read_text())["details"]
    assert details["scores"]["details"]["protocol"] == "joint-few-shot"
    assert "accuracy" in (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")


def test_a_model_for_each_language_has_a_folder_for_each(tmp_path: Path) -> None:
    family = saved_family(tmp_path / "family")
    scores = few_shot(
        maker(family),
        POS(),
        TRAIN,
        TEST,
        word_tokenizer(),
        QUICK,
        shots=4,
        save_directory=tmp_path / "saved",
    )
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"en", "sw"}
    for language in ("en", "sw"):
        loaded = LanguageAdapterModel.from_pretrained(tmp_path / "saved" / language)
        rows = {language: TEST[language]}
        found = evaluate_languages(loaded, POS(), rows, processing_class=word_tokenizer())
        assert found[language] == scores[language]


def write(folder: Path) -> Path:
    for split, data in (("train", TRAIN), ("test", TEST)):
        for language, rows in data.items():
            (folder / language).mkdir(parents=True, exist_ok=True)
            lines = "\n".join(json.dumps(row) for row in rows)
            (folder / language / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def test_from_a_family_on_the_hub_to_a_model_on_the_hub(
    tmp_path: Path, hub: HubServer, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved_family(tmp_path / "family")
    LanguageAdapterModel.from_pretrained(folder).push_to_hub(
        "anna/family", processing_class=word_tokenizer()
    )
    args = FinetuningArguments(
        model="anna/family",
        data=str(write(tmp_path / "data")),
        output_dir=str(tmp_path / "out"),
        protocol="joint-few-shot",
        shots=4,
        max_steps=2,
        per_device_train_batch_size=4,
    )
    training = {"push_to_hub": True, "hub_model_id": "anna/tagger", "hub_private_repo": True}
    scores = run_finetuning(args, POS(), AUTO, training)
    assert scores.languages == ("en", "sw")
    assert "No labels of hi, te" in caplog.text

    published = LanguageAdapterModel.from_pretrained("anna/tagger")
    tokenizer = transformers.AutoTokenizer.from_pretrained("anna/tagger")
    found = evaluate_languages(published, POS(), TEST, processing_class=tokenizer)
    assert found.scores == scores.scores
    record = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert record["arguments"]["hub_model_id"] == "anna/tagger"
    assert set(record["details"]["drawn"]["train"]) == {"sw"}


def test_a_family_that_is_nowhere(tmp_path: Path, hub: HubServer) -> None:
    with pytest.raises(HubError, match="anna/nothing"):
        load_for_task("anna/nothing", AUTO, POS())
    with pytest.raises(HubError, match=r"language_adapters\.json"):
        load_for_task(tmp_path, AUTO, POS())


@pytest.mark.parametrize(
    "given", [{"protocol": "few-shot"}, {"protocol": "zero-shot", "save_model": False}]
)
def test_only_one_saved_model_is_published(given: dict[str, Any]) -> None:
    args = FinetuningArguments(model="m", data="d", **given)
    with pytest.raises(ConfigurationError, match="`push_to_hub` publishes the one model"):
        args.check({"push_to_hub": True})
