"""The PEFT backend: any method of PEFT, any language key, and files from elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from hf_meta_adapters import BottleneckConfig, LanguageAdapterModel, get_language_model
from hf_meta_adapters.backends.peft._backend import PeftBackend
from hf_meta_adapters.backends.registry import backend_for
from hf_meta_adapters.backends.weights_file import WEIGHTS
from hf_meta_adapters.errors import ConfigurationError, HubError, UnsupportedModelError
from tests.adapted import adapted, moved, outputs, same, snapshot, stirred
from tests.signed import sign
from tests.tiny import tiny

load = LanguageAdapterModel.from_pretrained
QUERY = {"target_modules": ["q_proj", "v_proj"]}
OTHERS = {
    "dora": ("LoraConfig", {"r": 2, "use_dora": True, **QUERY}),
    "fourier": ("FourierFTConfig", {"n_frequency": 5, "init_weights": True, **QUERY}),
    "hra": ("HRAConfig", {"r": 2, **QUERY}),
    "loha": ("LoHaConfig", {"r": 2, **QUERY}),
    "lokr": ("LoKrConfig", {"r": 2, **QUERY}),
    "mica": ("LoraConfig", {"r": 2, "init_lora_weights": "mica", **QUERY}),
    "oft": ("OFTConfig", {"r": 2, "oft_block_size": 0, **QUERY}),
    "rslora": (
        "LoraConfig",
        {"r": 2, "use_rslora": True, "init_lora_weights": "gaussian", **QUERY},
    ),
    "token": ("TrainableTokensConfig", {"token_indices": [3, 4]}),
    "vera": ("VeraConfig", {"r": 2, **QUERY}),
    "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}),
    "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}),
}
CODES = [
    *(
        "aa",
        "bo",
        "de",
        "el",
        "en",
        "fr",
        "ia",
        "in",
        "it",
        "ki",
        "la",
        "lo",
        "or",
        "te",
        "to",
        "tr",
        "tu",
        "vi",
        "zh",
    ),
    *(
        "pt",
        "pt-BR",
        "zh-Hant",
        "zh-Hans",
        "language_to",
        "language_lo",
        "lora",
        "lora_A",
        "bk_up",
        "weight",
        "bias",
        "model",
        "A",
        "r",
    ),
    *("default", "self", "layer", "query", "get", "pop", "update", "copy", "training", "forward"),
]


def config_of(name: str) -> Any:
    kind, options = OTHERS[name]
    return getattr(peft, kind)(**options)


@pytest.mark.parametrize("name", OTHERS)
def test_any_method_of_peft_is_routed_trained_saved_and_loaded(name: str, tmp_path: Path) -> None:
    cell = tiny("llama")
    batch = cell.batch()
    model = get_language_model(cell.make(), config_of(name), ["en", "sw", "te"])
    if name not in ("prompt", "prefix"):  # a fresh prompt is not the identity
        expected = outputs(cell.make(), batch)
        torch.testing.assert_close(
            outputs(model, batch, language="sw"), expected, rtol=1e-4, atol=1e-4
        )
    stirred(model)
    alone = {key: outputs(model, batch, language=key) for key in model.languages}
    assert not same(alone["en"], alone["sw"])
    assert all(same(outputs(model, batch, language=key), alone[key]) for key in model.languages)

    own = {key: model.language_parameters(key) for key in model.languages}
    assert own["sw"]
    assert all(parameter.requires_grad for each in own.values() for parameter in each.values())
    model(**batch, language="sw").loss.backward()
    assert any(
        parameter.grad is not None and parameter.grad.any() for parameter in own["sw"].values()
    )
    for key in ("en", "te"):
        assert not any(p.grad is not None and p.grad.any() for p in own[key].values())
    model.add_language("fr", copy_from="sw")
    assert same(outputs(model, batch, language="fr"), alone["sw"])

    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert all(same(outputs(loaded, batch, language=key), alone[key]) for key in alone)
    plain = tiny("llama").make().from_pretrained(tmp_path)
    assert same(
        outputs(PeftModel.from_pretrained(plain, str(tmp_path), subfolder="sw").eval(), batch),
        alone["sw"],
    )


@pytest.mark.parametrize("method", ["lora", "bottleneck"])
def test_every_language_is_saved_under_the_same_names(method: str, tmp_path: Path) -> None:
    """PEFT takes the adapter's name out of the names of tensors; nothing else may be lost."""
    cell = tiny("xlm-r")
    config = (
        LoraConfig(r=1, target_modules=["query"])
        if method == "lora"
        else BottleneckConfig(bottleneck_size=1)
    )
    model = stirred(get_language_model(cell.make(), config, CODES))
    model.save_pretrained(tmp_path)
    reference = get_peft_model(cell.make(), config, adapter_name="something").eval()
    reference.save_pretrained(str(tmp_path / "reference"))
    expected = set(load_file(tmp_path / "reference" / "something" / WEIGHTS))
    for key in CODES:
        assert (tmp_path / key / "adapter_config.json").is_file()
        stored = load_file(tmp_path / key / WEIGHTS)
        assert set(stored) == expected
        own = model.language_parameters(key).values()
        assert all(
            any(torch.equal(value, parameter) for parameter in own) for value in stored.values()
        )
    stirred(loaded := load(tmp_path)).load_weights(tmp_path)
    for key in CODES:
        assert same(
            list(loaded.language_parameters(key).values()),
            list(model.language_parameters(key).values()),
        )
    assert len({loaded.backend.adapter(key) for key in CODES}) == len(CODES)


@pytest.mark.parametrize(
    ("task", "head"),
    [("TOKEN_CLS", "token_classification"), ("SEQ_CLS", "sequence_classification")],
)
def test_a_classification_task_leaves_the_head_shared(task: str, head: str) -> None:
    cell = tiny("bert", head)
    model = get_language_model(
        cell.make(), LoraConfig(target_modules=["query"], task_type=task), ["en", "sw"]
    )
    assert {name.split(".")[-3] for name in model.language_parameters("sw")} == {"lora_A", "lora_B"}
    assert any(name.endswith("classifier.weight") for name in model.shared_parameters())


def test_a_prompt_for_a_classifier_has_a_head_per_language() -> None:
    cell = tiny("bert", "sequence_classification")
    config = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="SEQ_CLS")
    model = stirred(get_language_model(cell.make(), config, ["en", "sw"]))
    alone = {key: outputs(model, cell.batch(), language=key) for key in model.languages}
    assert not same(alone["en"], alone["sw"])
    assert any("classifier" in name for name in model.language_parameters("sw"))
    assert same(outputs(model, cell.batch(), language="en"), alone["en"])


def test_the_configuration_of_the_user_stays_hers() -> None:
    config = LoraConfig(target_modules=["query"], task_type="TOKEN_CLS", inference_mode=True)
    before = config.to_dict()
    model = get_language_model(tiny("bert").make(), config, ["en", "sw"])
    assert config.to_dict() == before
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            lambda: LoraConfig(target_modules=["qkv"]),
            r"`target_modules={'qkv'}` in `BertForMaskedLM`: .*Set .*'query'",
        ),
        (
            lambda: BottleneckConfig(target_modules=["LayerNorm"]),
            r"^`target_modules` must match linear layers only",
        ),
    ],
)
def test_a_model_without_the_targets_is_refused_and_left_alone(config: Any, message: str) -> None:
    base = tiny("bert").make()
    names = set(base.state_dict())
    with pytest.raises(UnsupportedModelError, match=message):
        get_language_model(base, config(), ["en"])
    assert set(base.state_dict()) == names
    assert all(parameter.requires_grad for parameter in base.parameters())


def test_an_adapted_model_is_refused() -> None:
    for base in (
        get_peft_model(tiny("bert").make(), LoraConfig(target_modules=["query"])),
        adapted("bert", "lora"),
    ):
        with pytest.raises(
            UnsupportedModelError,
            match=r"no adapters of PEFT yet. Found some in .*Call .*add_language",
        ):
            get_language_model(base, LoraConfig(target_modules=["query"]), ["en"])
    with pytest.raises(
        UnsupportedModelError, match=r"must be a module. Found 'xlm-roberta-base' .*from_pretrained"
    ):
        get_language_model("xlm-roberta-base", LoraConfig(), ["en"])


@pytest.mark.parametrize("how", ["pissa", "pissa_niter_4", "olora", "loftq", "corda", "lora_ga"])
def test_an_initialisation_that_changes_the_base_is_refused(how: str) -> None:
    config = LoraConfig(target_modules=["query"])
    config.init_lora_weights = how
    with pytest.raises(
        ConfigurationError,
        match=rf"leave the base model as it is.*Found `init_lora_weights='{how}'`.*Set",
    ):
        get_language_model(tiny("bert").make(), config, ["en", "sw"])


def test_a_method_for_one_adapter_is_refused() -> None:
    config = peft.AdaLoraConfig(init_r=2, target_r=1, total_step=10, target_modules=["query"])
    with pytest.raises(
        ConfigurationError,
        match=r"several trained adapters .*Found `AdaLoraConfig`.*Use for example",
    ):
        get_language_model(tiny("bert").make(), config, ["en", "sw"])


@pytest.mark.parametrize("config", [{"r": 4}, LoraConfig, "lora"])
def test_a_configuration_of_no_known_type_is_refused(config: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"a PeftConfig such as BottleneckConfig\(\).*Found .* of type"
    ):
        get_language_model(tiny("bert").make(), config, ["en"])


def test_the_backend_follows_the_type_of_the_configuration() -> None:
    class Mine(LoraConfig):
        pass

    assert backend_for(Mine()) is backend_for(BottleneckConfig()) is PeftBackend
    assert backend_for(None).name == "none"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved model with LoRA in two languages."""
    config = LoraConfig(r=2, target_modules=["query"])
    stirred(get_language_model(tiny("bert").make(), config, ["en", "sw"])).save_pretrained(
        tmp_path / "model"
    )
    return tmp_path / "model"


def refuse(folder: Path, message: str) -> None:
    """Loading anew and loading in place both refuse, and the latter leaves the adapter alone."""
    sign(folder)
    config = LoraConfig(r=2, target_modules=["query"])
    model = stirred(get_language_model(tiny("bert").make(), config, ["en", "sw"]))
    before = snapshot(model)
    with pytest.raises(HubError, match=message):
        model.backend.load("sw", folder / "sw")
    assert moved(before, model) == set()
    with pytest.raises(HubError, match=message):
        load(folder)


def test_all_differences_of_an_adapter_are_listed_at_once(saved: Path) -> None:
    state = load_file(saved / "sw" / WEIGHTS)
    names = sorted(state)
    state[names[0]] = torch.zeros(3, 16)
    state["base_model.model.extra.lora_A.weight"] = torch.zeros(1)
    del state[names[1]]
    (saved / "sw" / WEIGHTS).unlink()
    save_file(state, saved / "sw" / WEIGHTS)
    refuse(
        saved,
        rf"must fit the model. Found in .*sw.*: missing: {names[1]}; not part of the adapter:"
        r" base_model.model.extra"
        rf".lora_A.weight; {names[0]}: shape \(3, 16\) in the file, \(2, 16\) in the model. Load it"
        r" into the model",
    )


def test_a_long_list_of_differences_is_cut(saved: Path) -> None:
    (saved / "sw" / WEIGHTS).unlink()
    save_file({f"x{number}": torch.zeros(1) for number in range(30)}, saved / "sw" / WEIGHTS)
    refuse(saved, r"; and 14 more. Load")


def test_a_pickled_adapter_is_refused_with_the_way_to_convert_it(saved: Path) -> None:
    path = saved / "sw" / WEIGHTS
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    refuse(
        saved,
        r"Found `adapter_model.bin` in .*sw, a pickle.*safetensors.torch.save_file\(torch.load\(",
    )
    save_file(torch.load(path.with_suffix(".bin"), weights_only=True), path)
    sign(saved)
    assert load(saved).languages == ("en", "sw")


def test_a_damaged_adapter_is_refused(saved: Path) -> None:
    path = saved / "sw" / WEIGHTS
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:100])
    refuse(
        saved, r"must be in safetensors format. Found .*adapter_model.safetensors damaged: .*again."
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"lora_alpha": 99, "use_rslora": True},
            "the same configuration. Found in .*lora_alpha=99, not 8; use_rslora=True",
        ),
        ({"peft_type": "TELEPATHY"}, "one that cannot be read: .*TELEPATHY.* Download or save"),
        ({"peft_type": None}, "one that cannot be read: "),
    ],
)
def test_an_adapter_that_means_something_else_is_refused(
    saved: Path, changes: dict[str, Any], message: str
) -> None:
    path = saved / "sw" / "adapter_config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(
        json.dumps({name: value for name, value in content.items() if value is not None})
    )
    refuse(saved, message)


def test_what_another_program_records_about_an_adapter_does_not_matter(saved: Path) -> None:
    path = saved / "sw" / "adapter_config.json"
    content = json.loads(path.read_text()) | {
        "base_model_name_or_path": "some/model",
        "inference_mode": False,
    }
    path.write_text(json.dumps(content))
    sign(saved)
    shutil.copytree(saved, saved.parent / "copy")
    assert load(saved.parent / "copy").languages == ("en", "sw")


def test_an_adapter_is_called_by_its_language_where_peft_can_tell_it_apart() -> None:
    model = adapted("mt5", "lora", ["sw", "zh-Hant", "wo", "to", "lo", "weight"])
    names = [model.backend.adapter(key) for key in model.languages]
    assert names == [
        "sw",
        "zh-Hant",
        "language_wo",
        "language_to",
        "language_lo",
        "language_weight",
    ]
    with model.use_language("sw"):
        assert model.active_adapter == "sw"
