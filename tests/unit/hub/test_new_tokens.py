"""A family with new tokens on the Hub."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from peft import LoraConfig
from transformers import AutoTokenizer, LlamaForCausalLM

from hf_meta_adapters import LanguageAdapterModel, extend_vocabulary, get_language_model
from tests.adapted import outputs, same, stirred
from tests.hub_server import HubServer
from tests.tiny import VOCABULARY, tiny
from tests.unit.vocabulary.cases import letters
from tests.unit.vocabulary.test_extending import TEXTS, tied, with_tokens

BASE, FAMILY = "anna/base", "anna/family"
LORA: dict[str, Any] = {"r": 2, "target_modules": ["q_proj"]}


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("is_adapter", [True, False])
def test_a_family_with_new_tokens_comes_back(
    tie: bool, is_adapter: bool, hub: HubServer, tmp_path: Path
) -> None:
    tied(tiny("llama"), tie).save_pretrained(tmp_path)
    HfApi().create_repo(BASE)
    HfApi().upload_folder(repo_id=BASE, folder_path=tmp_path)
    base, tokenizer = LlamaForCausalLM.from_pretrained(BASE), letters(VOCABULARY)
    added = extend_vocabulary(base, tokenizer, TEXTS, 3)
    shared: Any = "all"
    if is_adapter:
        shared = LoraConfig(trainable_token_indices=added.token_indices, **LORA)
    model = stirred(get_language_model(base, LoraConfig(**LORA), ["en", "sw"], shared=shared))

    model.push_to_hub(FAMILY, processing_class=tokenizer)

    assert ("model.safetensors" in hub.repositories[FAMILY].files()) != is_adapter
    loaded = LanguageAdapterModel.from_pretrained(FAMILY)
    batch = with_tokens(tiny("llama"), VOCABULARY - 2, VOCABULARY + 3)
    for key in ("en", "sw"):
        assert same(outputs(loaded, batch, language=key), outputs(model, batch, language=key))
    assert AutoTokenizer.from_pretrained(FAMILY).tokenize("bahari") == tokenizer.tokenize("bahari")


def test_the_card_makes_room_for_new_tokens(hub: HubServer, tmp_path: Path) -> None:
    tied(tiny("llama"), True).save_pretrained(tmp_path)
    HfApi().create_repo(BASE)
    HfApi().upload_folder(repo_id=BASE, folder_path=tmp_path)
    base = LlamaForCausalLM.from_pretrained(BASE)
    tokenizer = letters(VOCABULARY)
    added = extend_vocabulary(base, tokenizer, TEXTS, 3)
    theta = LoraConfig(trainable_token_indices=added.token_indices, **LORA)
    model = stirred(get_language_model(base, None, ["en"], shared=theta))
    model.push_to_hub(FAMILY, processing_class=tokenizer)

    card = hub.repositories[FAMILY].files()["README.md"].decode()
    names: dict[str, Any] = {}
    code = card.split("Without the package:")[1].split("```python\n")[1].split("```")[0]
    exec(code, names)  # a card that cannot be run is no help
    batch = with_tokens(tiny("llama"), VOCABULARY - 2, VOCABULARY + 3)
    assert same(outputs(names["model"].eval(), batch), outputs(model, batch, language="en"))
