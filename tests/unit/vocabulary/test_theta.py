"""Rows of new pieces as a part of θ, over a base that is frozen and only named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel

from hf_meta_adapters import LanguageAdapterModel, extend_vocabulary, get_language_model
from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub.manifest import MANIFEST
from hf_meta_adapters.vocabulary.extension import VocabularyExtension
from tests.adapted import outputs, same, stirred, trained_as_owned
from tests.signed import sign
from tests.tiny import VOCABULARY, tiny
from tests.unit.vocabulary.cases import letters
from tests.unit.vocabulary.test_extending import TEXTS, tied, with_tokens

SIZE = 4
END = VOCABULARY + SIZE
TARGETS: dict[str, dict[str, Any]] = {
    "llama": {"target_modules": ["q_proj"]},
    "gpt2": {"target_modules": ["c_attn"], "fan_in_fan_out": True},
    "gemma3": {"target_modules": ["q_proj"]},
    "mt5": {"target_modules": ["q"]},
}


def saved_base(name: str, tie: bool, folder: Path) -> Any:
    model = tied(tiny(name), tie)
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder)


def family(
    name: str, tie: bool, folder: Path, **options: Any
) -> tuple[LanguageAdapterModel, VocabularyExtension]:
    """A family whose base is in `folder`, with new rows that have been trained."""
    base = saved_base(name, tie, folder)
    added = extend_vocabulary(base, letters(VOCABULARY), TEXTS, SIZE)
    theta = LoraConfig(r=2, trainable_token_indices=added.token_indices, **TARGETS[name])
    config = LoraConfig(r=3, **TARGETS[name])
    model = get_language_model(base, config, ["en", "sw"], shared=theta, **options)
    return stirred(model), added


CASES = [("llama", False), ("llama", True), ("gpt2", True), ("gemma3", True), ("mt5", True)]


@pytest.mark.parametrize(("name", "tie"), CASES)
def test_new_rows_travel_with_theta(name: str, tie: bool, tmp_path: Path) -> None:
    model, added = family(name, tie, tmp_path / "base")
    batch = with_tokens(tiny(name), VOCABULARY - 2, END)
    assert trained_as_owned(model)
    rows = [part for part in model.shared_parameters() if "trainable_tokens" in part]
    assert len(rows) == len(added.token_indices) == (1 if tie else 2)

    model.save_pretrained(tmp_path / "family")
    manifest = json.loads((tmp_path / "family" / MANIFEST).read_text())
    assert manifest["base_model"] == str(tmp_path / "base")
    assert not list((tmp_path / "family").glob("*.safetensors"))

    loaded = LanguageAdapterModel.from_pretrained(tmp_path / "family")
    for key in ("en", "sw"):
        assert same(outputs(loaded, batch, language=key), outputs(model, batch, language=key))

    # saved again, also without a language
    loaded.remove_language("en")
    loaded.save_pretrained(tmp_path / "again")
    assert not list((tmp_path / "again").glob("*.safetensors"))
    again = LanguageAdapterModel.from_pretrained(tmp_path / "again")
    assert same(outputs(again, batch, language="sw"), outputs(model, batch, language="sw"))


@pytest.mark.parametrize(("name", "tie"), CASES)
def test_plain_libraries_read_them(name: str, tie: bool, tmp_path: Path) -> None:
    model, _ = family(name, tie, tmp_path / "base")
    batch = with_tokens(tiny(name), VOCABULARY - 2, END)
    model.save_pretrained(tmp_path / "family")

    # PEFT, after the call that its documentation asks for
    base = type(model.base_model).from_pretrained(tmp_path / "base")
    base.resize_token_embeddings(END, mean_resizing=False)
    plain = PeftModel.from_pretrained(base, tmp_path / "family", subfolder="shared").eval()
    with torch.no_grad():
        for parameter in model.language_parameters("sw").values():
            parameter.zero_()
    assert same(outputs(plain, batch), outputs(model, batch, language="sw"))

    # transformers, once they are merged
    merged = model.merge_language("en")
    merged.save_pretrained(tmp_path / "merged")
    loaded = type(merged).from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(
        outputs(loaded, batch), outputs(model, batch, language="en"), atol=1e-4, rtol=1e-4
    )
    assert loaded.get_input_embeddings().weight.shape[0] == END


def test_rows_to_spare_travel_as_well(tmp_path: Path) -> None:
    base = saved_base("llama", True, tmp_path / "base")
    added = extend_vocabulary(base, letters(VOCABULARY - 3), TEXTS, 2)
    theta = LoraConfig(r=2, trainable_token_indices=added.token_indices, **TARGETS["llama"])
    model = stirred(get_language_model(base, None, ["en"], shared=theta))
    model.save_pretrained(tmp_path / "family")
    assert not list((tmp_path / "family").glob("*.safetensors"))
    batch = with_tokens(tiny("llama"), VOCABULARY - 6)
    loaded = LanguageAdapterModel.from_pretrained(tmp_path / "family")
    assert same(outputs(loaded, batch, language="en"), outputs(model, batch, language="en"))


@pytest.mark.parametrize("change", ["an old row", "no row in θ", "one row too few"])
def test_a_base_with_other_changes_is_saved_as_a_whole(change: str, tmp_path: Path) -> None:
    base = saved_base("llama", True, tmp_path / "base")
    added = extend_vocabulary(base, letters(VOCABULARY), TEXTS, SIZE)
    rows: Any = added.token_indices
    if change == "an old row":
        base.get_input_embeddings().weight.data[5] += 1
    elif change == "no row in θ":
        rows = None
    else:
        rows = {name: ids[1:] for name, ids in rows.items()}

    theta = LoraConfig(r=2, trainable_token_indices=rows, **TARGETS["llama"])
    model = stirred(
        get_language_model(base, LoraConfig(r=2, **TARGETS["llama"]), ["en"], shared=theta)
    )
    model.save_pretrained(tmp_path / "family")
    assert (tmp_path / "family" / "model.safetensors").is_file()

    batch = with_tokens(tiny("llama"), 3, END)
    loaded = LanguageAdapterModel.from_pretrained(tmp_path / "family")
    assert same(outputs(loaded, batch, language="en"), outputs(model, batch, language="en"))


@pytest.mark.parametrize("tokens", [END + 1, 10**9])
def test_a_vocabulary_that_is_not_in_the_files_is_refused(tokens: int, tmp_path: Path) -> None:
    model, _ = family("llama", True, tmp_path / "base")
    model.save_pretrained(tmp_path / "family")
    file = tmp_path / "family" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "vocab_size": tokens}))
    sign(tmp_path / "family")
    with pytest.raises(HubError, match=f"a vocabulary of {tokens:,} tokens, a base of 64"):
        LanguageAdapterModel.from_pretrained(tmp_path / "family")


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    model, _ = family("llama", True, tmp_path / "base")
    model.save_pretrained(tmp_path / "family")
    LanguageAdapterModel.from_pretrained(tmp_path / "family")  # imports what it needs
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        LanguageAdapterModel.from_pretrained(tmp_path / "family")
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_every_language_gets_them_and_can_be_added(tmp_path: Path) -> None:
    model, _ = family("llama", True, tmp_path / "base")
    model.add_language("yo", copy_from="sw")
    batch = with_tokens(tiny("llama"), VOCABULARY - 2, END)
    assert same(outputs(model, batch, language="yo"), outputs(model, batch, language="sw"))
    before = outputs(model, batch, language="yo")[0]
    rows = [part for name, part in model.shared_parameters().items() if "tokens" in name]
    with torch.no_grad():
        rows[0].add_(1)
    assert not torch.equal(outputs(model, batch, language="yo")[0], before)
    assert isinstance(model.base_model, transformers.LlamaForCausalLM)
