"""The code on the card runs as it is printed, in a fresh process with an empty cache; and where the
card says so, without this package.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import peft
import pytest
import transformers
from huggingface_hub import ModelCard, snapshot_download
from peft import LoraConfig

from hf_meta_adapters import LanguageAdapterModel, get_language_model
from hf_meta_adapters.hub._card import card_text
from hf_meta_adapters.hub.manifest import Family
from tests.adapted import adapted, outputs, same, stirred
from tests.hub_client import run
from tests.hub_server import HubServer
from tests.tiny import MODELS, TinyModel, tiny
from tests.training import make_tokenizer

_RUN = """
import huggingface_hub
for name, code in BLOCKS:
    try:
        exec(compile(code, name, "exec"), {})
    except Exception as error:
        raise AssertionError(f"{name}:\\n{code}") from error
print("ran", len(BLOCKS))
"""
_PACKAGE = "hf_meta_adapters"


def blocks(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def card_of(hub: HubServer, name: str) -> str:
    return hub.repositories[name].files()["README.md"].decode()


def publish_all(hub: HubServer) -> None:
    """A family of every kind for which the card prints other code."""
    stirred(adapted("bert", "bottleneck")).push_to_hub("anna/bottleneck")
    lora = stirred(adapted("bert", "lora"))
    lora.push_to_hub("anna/lora", processing_class=make_tokenizer())
    stirred(adapted("bert", "copy_layer_norm")).push_to_hub("anna/copies")
    stirred(adapted("mt5", "lora")).push_to_hub("anna/seq2seq")
    stirred(adapted("bert", None)).push_to_hub("anna/joint")
    stirred(adapted("llama", "lora", share_adapter=True)).push_to_hub("anna/one")

    tiny("llama").make().push_to_hub("anna/base")
    make_tokenizer().push_to_hub("anna/base")
    for name, config in {
        "theta": LoraConfig(target_modules=["q_proj"]),
        "only_theta": None,
    }.items():
        base = transformers.AutoModelForCausalLM.from_pretrained("anna/base")
        theta = LoraConfig(r=2, target_modules=["v_proj"])
        model = get_language_model(base, config, ["en", "sw"], shared=theta)
        stirred(model).push_to_hub(f"anna/{name}")


@pytest.mark.slow
def test_the_code_on_the_card_runs_as_it_is_printed(hub: HubServer, tmp_path: Path) -> None:
    publish_all(hub)
    names = [name for name in hub.repositories if name != "anna/base"]
    found = [(name, code) for name in names for code in blocks(card_of(hub, name))]
    counts = {name: len(blocks(card_of(hub, name))) for name in names}
    assert counts == dict.fromkeys(names, 2) | {"anna/theta": 1}

    for name in ("anna/bottleneck", "anna/copies"):
        [_, plain] = blocks(card_of(hub, name))
        assert plain.startswith("import hf_meta_adapters  # registers the method")
        assert "Without the package" not in card_of(hub, name)
    assert 'AutoTokenizer.from_pretrained("anna/lora")' in blocks(card_of(hub, "anna/lora"))[0]
    assert "model.generate(" in blocks(card_of(hub, "anna/seq2seq"))[1]

    for folder in ("with", "without"):
        (tmp_path / folder).mkdir()
    printed = run(hub, f"BLOCKS = {found!r}\n{_RUN}", tmp_path / "with")
    assert printed.endswith(f"ran {len(found)}\n")
    without = [(name, code) for name, code in found if _PACKAGE not in code]
    assert {name for name, _ in without} == {*names} - {
        "anna/bottleneck", "anna/copies", "anna/theta",
    }  # fmt: skip
    hub.requests.clear()
    run(hub, f"BLOCKS = {without!r}\n{_RUN}", tmp_path / "without", installed=False)
    assert no_repository_none(hub)


def no_repository_none(hub: HubServer) -> bool:
    return not [
        request.path for request in hub.requests if re.search("(/|^)None(/|$)", request.path)
    ]


_SUFFIXES = {
    "CAUSAL_LM": "ForCausalLM",
    "SEQ_2_SEQ_LM": "ForSeq2SeqLM",
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
    None: "",
}
CASES = {
    ("bert", "masked_lm"): None,
    ("llama", "causal_lm"): "CAUSAL_LM",
    ("mt5", "seq2seq_lm"): "SEQ_2_SEQ_LM",
    ("distilbert", "sequence_classification"): "SEQ_CLS",
    ("bert", "token_classification"): "TOKEN_CLS",
    ("roberta", "question_answering"): "QUESTION_ANS",
}


def cell_of(family: str, head: str) -> TinyModel:
    return next(cell for cell in MODELS if (cell.name, cell.head) == (family, head))


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_peft_finds_model_and_task_by_itself(
    case: tuple[str, str], hub: HubServer, tmp_path: Path
) -> None:
    cell, task = cell_of(*case), CASES[case]
    model = stirred(adapted(cell, "bottleneck"))
    expected = outputs(model, cell.batch(), language="sw")
    model.push_to_hub("anna/family", processing_class=make_tokenizer())
    folder = snapshot_download("anna/family", allow_patterns=["sw/*"])
    config = json.loads((Path(folder) / "sw" / "adapter_config.json").read_text())
    assert config["task_type"] == task
    assert config["base_model_name_or_path"] == "anna/family"

    automatic = getattr(peft, f"AutoPeftModel{_SUFFIXES[task]}")
    found = automatic.from_pretrained(f"{folder}/sw").eval()
    assert same(outputs(found, cell.batch()), expected)

    # by hand, and by this package, nothing has changed
    base = type(model.base_model).from_pretrained("anna/family")
    by_hand = peft.PeftModel.from_pretrained(base, "anna/family", subfolder="sw").eval()
    assert same(outputs(by_hand, cell.batch()), expected)
    loaded = LanguageAdapterModel.from_pretrained("anna/family", languages=["sw"])
    assert same(outputs(loaded, cell.batch(), language="sw"), expected)
    loaded.save_pretrained(tmp_path)
    assert no_repository_none(hub)


def test_an_adapted_head_leaves_the_task_to_the_class(tmp_path: Path) -> None:
    cell = cell_of("bert", "token_classification")
    config = LoraConfig(r=2, target_modules=["query", "classifier"])
    model = stirred(get_language_model(cell.make(), config, ["sw"]))
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "sw" / "adapter_config.json").read_text())
    assert saved["task_type"] is None
    assert saved["auto_mapping"]["base_model_class"] == "BertForTokenClassification"
    base = type(model.base_model).from_pretrained(tmp_path)
    found = peft.PeftModel.from_pretrained(base, tmp_path, subfolder="sw").eval()
    assert same(outputs(found, cell.batch()), outputs(model, cell.batch(), language="sw"))


def test_a_folder_names_no_base_and_nobody_looks_for_none(hub: HubServer, tmp_path: Path) -> None:
    stirred(adapted("llama", "lora")).save_pretrained(tmp_path)
    for load in (peft.AutoPeftModelForCausalLM, transformers.AutoModelForCausalLM):
        with pytest.raises((OSError, ValueError)):  # the base is not `None` on the Hub, nor else
            load.from_pretrained(str(tmp_path / "sw"))
    assert no_repository_none(hub)


def test_what_a_card_says_of_a_class(hub: HubServer) -> None:
    stirred(adapted("bert", "lora")).push_to_hub(
        "anna/family", license="cc-by-4.0", datasets=["anna/verses", "no repository"]
    )
    data = ModelCard(card_of(hub, "anna/family")).data
    assert data.pipeline_tag == "fill-mask"
    assert data.license == "cc-by-4.0"
    assert data.datasets == ["anna/verses"]
    text = card_of(hub, "anna/family")
    assert "Data: [anna/verses](https://huggingface.co/datasets/anna/verses)." in text
    assert 'pip install "hf-meta-adapters"' in text
    assert "Made with [hf-meta-adapters](http" in text
    # the user's word wins where nothing is passed
    edited = text.replace("pipeline_tag: fill-mask", "pipeline_tag: feature-extraction")
    family = Family(("sw",), "peft", "all", False, False, "", "", "BertForMaskedLM", "bert")
    assert ModelCard(card_text(family, edited)).data.pipeline_tag == "feature-extraction"


def test_the_licence_of_the_base_is_inherited(hub: HubServer) -> None:
    card = b"---\nlicense: mit\n---\n# Base\n"
    hub.repository("ben/base", {"README.md": card})
    model = stirred(adapted("bert", "lora"))
    model.push_to_hub("anna/family", base_model="ben/base")
    data = ModelCard(card_of(hub, "anna/family")).data
    assert (data.license, data.base_model) == ("mit", "ben/base")
    model.push_to_hub("anna/family", base_model="ben/base", license="cc0-1.0")
    assert ModelCard(card_of(hub, "anna/family")).data.license == "cc0-1.0"
    # a base that is unknown to the Hub has none, and is no reason to fail
    model.push_to_hub("anna/other", base_model="ben/absent")
    assert ModelCard(card_of(hub, "anna/other")).data.license is None


def test_methods_of_this_package_are_imported(tmp_path: Path) -> None:
    for method in ("bottleneck", "ia3", "copy_attention"):
        adapted("bert", method, ["sw"]).save_pretrained(tmp_path / method)
        text = (tmp_path / method / "README.md").read_text()
        is_own = method == "bottleneck" or method.startswith("copy_")
        assert ("# registers the method of the adapters" in text) == is_own
