"""How users call a family: ids by position, a folder that is not there, a plain Trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from hf_meta_adapters import LanguageAdapterModel, MetaAdapterTrainer
from hf_meta_adapters.errors import ConfigurationError, HubError, LanguageError
from tests.adapted import adapted, moved, snapshot, stirred
from tests.tiny import tiny
from tests.training import make_model, make_trainer, texts


def test_ids_by_position() -> None:
    cell = tiny("bert")
    model = stirred(adapted(cell, "lora"))
    ids = cell.batch()["input_ids"]
    mask = torch.ones_like(ids)
    expected = model(language="sw", input_ids=ids, attention_mask=mask).logits
    for outputs in (
        model(ids, language="sw", attention_mask=mask),
        model(ids, mask, language="sw"),
        model("sw", ids, mask),
        model("sw", input_ids=ids, attention_mask=mask),
        model(["sw"] * len(ids), ids, attention_mask=mask),
    ):
        assert torch.equal(outputs.logits, expected)

    with pytest.raises(LanguageError, match=r"language of this model: .* Found none"):
        model(ids)
    with pytest.raises(LanguageError, match="Found 'de'"):
        model(ids, language="de")
    with pytest.raises(ConfigurationError, match=r"by position must be .* multiple values for"):
        model(ids, input_ids=ids, language="sw")
    model.set_language("sw")
    assert torch.equal(model(ids, mask).logits, expected)


def test_a_name_that_is_neither_a_folder_nor_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    load = LanguageAdapterModel.from_pretrained
    with pytest.raises(HubError, match=r"Found no folder 'outputs/mine' in the working directory"):
        load("outputs/mine")
    with pytest.raises(HubError, match=r"Found none in .*mine"):
        load(tmp_path / "mine")


def test_a_new_language_needs_the_setting_that_the_guide_names(tmp_path: Path) -> None:
    model = make_model(config="bottleneck")
    model.add_language("yo")
    model.train_only("yo")
    data = {"yo": texts(0)[model.languages[0]]}
    given = {"kind": MetaAdapterTrainer, "train_dataset": data}
    with pytest.raises(ConfigurationError, match='`adapter_update="train"` in the arguments'):
        make_trainer(tmp_path, model, meta_dataset=None, **given).train()

    before = snapshot(model)
    trainer = make_trainer(tmp_path, model, meta_dataset=None, adapter_update="train", **given)
    trainer.train()
    assert moved(before, model) == set(model.language_parameters("yo"))


def test_a_plain_trainer_trains_the_language_that_is_set(tmp_path: Path) -> None:
    model = adapted("bert", "lora")
    model.set_language("sw")
    rows = [{"input_ids": [5, 6, 7 + row], "labels": [5, 6, 7 + row]} for row in range(4)]
    options = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "max_steps": 1}
    args = transformers.TrainingArguments(
        str(tmp_path), save_strategy="no", remove_unused_columns=False, **options
    )
    before = snapshot(model)
    transformers.Trainer(model, args, train_dataset=rows).train()
    changed = moved(before, model)
    assert changed & set(model.language_parameters("sw"))
    assert changed & set(model.shared_parameters())
    assert not changed & set(model.language_parameters("en"))
    model.save_pretrained(tmp_path / "family")
    assert LanguageAdapterModel.from_pretrained(tmp_path / "family").languages == ("en", "sw")
