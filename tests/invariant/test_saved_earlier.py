"""What an earlier version saved is loaded, and its run resumed, bit by bit (`saved/README.md`)."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from hf_meta_adapters import LanguageAdapterModel, MetaAdapterTrainer
from hf_meta_adapters.errors import CheckpointError
from tests.training import LANGUAGES, make_model, make_trainer, snapshot

SAVED = Path(__file__).parent / "saved"
VERSIONS = json.loads((SAVED / "versions.json").read_text())
WORDS = torch.arange(3, 15).reshape(2, 6)
SAME_LANE = transformers.__version__.partition(".")[0] == VERSIONS["transformers"].partition(".")[0]


@cache
def same_arithmetic():
    """Whether plain transformers and PEFT compute here, bit by bit, what was saved.

    Another processor may take sums in another order although its instructions are the same.
    """
    folder = SAVED / "bottleneck"
    expected = load_file(folder / "logits.safetensors")
    for key in LANGUAGES:
        base = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float64)
        plain = PeftModel.from_pretrained(base, folder, subfolder=key).to(torch.float64).eval()
        with torch.no_grad():
            found = plain(input_ids=WORDS, attention_mask=torch.ones_like(WORDS)).logits

        # In any case it is the same model.
        torch.testing.assert_close(found, expected[key], rtol=1e-9, atol=1e-12)
        if not torch.equal(found, expected[key]):
            return False
    return True


def assert_equal(found, expected):
    """Bitwise where the arithmetic is the same."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if same_arithmetic():
            assert torch.equal(found[name], tensor), name
        else:
            torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("family", ["bottleneck", "module_copy", "shared_lora"])
def test_a_family_computes_what_it_did(family):
    model = LanguageAdapterModel.from_pretrained(SAVED / family, dtype=torch.float64)
    with torch.no_grad():
        found = {
            key: model(language=key, input_ids=WORDS, attention_mask=torch.ones_like(WORDS)).logits
            for key in LANGUAGES
        }
    assert_equal(found, load_file(SAVED / family / "logits.safetensors"))


@pytest.mark.skipif(
    not SAME_LANE,
    reason="the checkpoint is of transformers 5, whose parameters come in another order",
)
def test_a_run_goes_on_as_it_did(tmp_path):
    checkpoint = shutil.copytree(SAVED / "checkpoint-2", tmp_path / "checkpoint-2")
    model = make_model(dtype=torch.float64, dropout=0.1, seed=1)
    trainer = make_trainer(
        tmp_path,
        model,
        kind=MetaAdapterTrainer,
        max_steps=4,
        save_strategy="steps",
        save_steps=2,
        languages_per_step=2,
        lr_scheduler_type="linear",
        warmup_steps=1,
    )
    with pytest.warns(
        UserWarning, match="An earlier version wrote it, .* not record data"
    ) as words:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert len(words) == 1
    assert_equal(snapshot(model), load_file(SAVED / "after_step_4.safetensors"))


@pytest.mark.skipif(not SAME_LANE, reason="as above")
def test_the_method_of_an_earlier_run_is_known_from_its_manifest(tmp_path):
    checkpoint = shutil.copytree(SAVED / "checkpoint-2", tmp_path / "checkpoint-2")
    trainer = make_trainer(tmp_path, make_model(), languages_per_step=2, meta_gradient="exact")
    said = "`meta_gradient` was 'finite_difference' and is 'exact'"
    with pytest.raises(CheckpointError, match=said):
        trainer.train(resume_from_checkpoint=str(checkpoint))
