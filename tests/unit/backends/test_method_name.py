"""Methods that are not PEFT's own, through code of PEFT and transformers that knows only theirs."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from peft import PeftConfig, PeftMixedModel

from hf_meta_adapters import BottleneckConfig, ModuleCopyConfig
from tests.adapted import METHODS, adapted, outputs, same, stirred
from tests.tiny import tiny

OWN = {"BOTTLENECK": BottleneckConfig, "MODULE_COPY": ModuleCopyConfig}


@pytest.mark.parametrize("name", OWN)
def test_the_type_of_a_method_is_a_string_with_a_value(name: str, tmp_path: Path) -> None:
    config = OWN[name]()
    config.save_pretrained(str(tmp_path))
    text = (tmp_path / "adapter_config.json").read_text()
    assert f'  "peft_type": "{name}",\n' in text
    assert json.dumps(config.to_dict()["peft_type"]) == f'"{name}"'

    again = PeftConfig.from_pretrained(str(tmp_path))
    assert type(again) is OWN[name]
    for found in (config, again, copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        method: Any = found.peft_type
        assert method == name == str(method) == f"{method}"
        assert hash(method) == hash(name)
        assert type(method.value) is str
        assert method.value == name


@pytest.mark.parametrize("method", ["bottleneck", "copy_feed_forward", "copy_layer_norm"])
@pytest.mark.parametrize("name", ["bert", "xlm-r", "llama", "gpt2", "mt5"])
def test_plain_transformers_loads_a_saved_language(name: str, method: str, tmp_path: Path) -> None:
    cell = tiny(name)
    batch = cell.batch()
    bare = outputs(cell.make(), batch)
    model = stirred(adapted(cell, method, shared="none")).eval()
    model.save_pretrained(tmp_path)

    # without a name as "default", and by a name of the user's
    for key, options in {"sw": {}, "en": {"adapter_name": "english"}}.items():
        plain = cell.make()
        plain.load_adapter(str(tmp_path / key), **options)
        expected = outputs(model, batch, language=key)
        assert same(outputs(plain, batch), expected)
        assert not same(bare, expected)


@pytest.mark.parametrize("method", ["bottleneck", "copy_feed_forward"])
def test_peft_names_a_method_that_cannot_be_mixed(method: str) -> None:
    base = tiny("bert").make()
    config = METHODS[method](base)
    with pytest.raises(ValueError, match=f"`peft_type` '{config.peft_type}' is not compatible"):
        PeftMixedModel(base, config)
