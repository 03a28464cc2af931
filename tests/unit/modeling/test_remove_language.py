"""`remove_language`: the language is gone, from the model and its folder; all else stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig

from hf_meta_adapters import LanguageAdapterModel, get_language_model, joint_step
from hf_meta_adapters.errors import ConfigurationError, LanguageError
from hf_meta_adapters.hub.manifest import MANIFEST
from tests.adapted import METHODS, adapted, outputs, same, stirred, trained_as_owned
from tests.tiny import tiny

LANGUAGES = ("en", "sw", "te")
load = LanguageAdapterModel.from_pretrained


def lora(*targets: str, **options: object) -> PeftConfig:
    return LoraConfig(r=2, target_modules=list(targets), **options)


def prompt(kind: type[PeftConfig]) -> Callable[[], LanguageAdapterModel]:
    config = kind(task_type="CAUSAL_LM", num_virtual_tokens=2)
    return lambda: get_language_model(tiny("llama").make(), config, LANGUAGES)


def with_theta(config: PeftConfig, **options: object) -> Callable[[], LanguageAdapterModel]:
    theta = lora("q_proj", "v_proj", **options)
    return lambda: get_language_model(tiny("llama").make(), config, LANGUAGES, shared=theta)


OTHERS: dict[str, Callable[[], LanguageAdapterModel]] = {
    "θ in the same layers": with_theta(lora("q_proj", "k_proj")),
    "θ and copies of a module": with_theta(lora("q_proj", modules_to_save=["norm"])),
    "θ with a copy of its own": with_theta(lora("k_proj"), modules_to_save=["norm"]),
    "copies of a module": lambda: get_language_model(
        tiny("llama").make(), lora("q_proj", modules_to_save=["lm_head"]), LANGUAGES
    ),
    "single tokens": lambda: get_language_model(
        tiny("llama").make(), lora("q_proj", trainable_token_indices=[3, 4]), LANGUAGES
    ),
    "a prompt": prompt(PromptTuningConfig),
    "prefixes": prompt(PrefixTuningConfig),
    "one adapter for all": lambda: adapted("bert", "lora", LANGUAGES, share_adapter=True),
    "no adapters": lambda: adapted("bert", None, LANGUAGES),
}
MODELS = {
    **{method: lambda method=method: adapted("bert", method, LANGUAGES) for method in METHODS},
    **OTHERS,
}


def batch_of(model: LanguageAdapterModel) -> dict:
    return tiny(model.base_model.config.model_type).batch()


@pytest.mark.parametrize("name", MODELS)
def test_the_others_compute_what_they_did_and_nothing_is_left_of_it(
    name: str, tmp_path: Path
) -> None:
    model = stirred(MODELS[name]())
    batch = batch_of(model)
    before = {key: outputs(model, batch, language=key) for key in LANGUAGES}
    names = {name for name, _ in model.named_parameters()}
    own = set(model._ownership.created["sw"])

    model.set_language("sw")  # the worst case: PEFT would go on with another one, and say so
    model.remove_language("sw")
    assert model.languages == ("en", "te")
    assert {name for name, _ in model.named_parameters()} == names - own
    assert trained_as_owned(model)
    assert model.language is None
    for key in ("te", "en"):
        assert same(outputs(model, batch, language=key), before[key])
    with pytest.raises(LanguageError, match="Found 'sw'"):
        model(language="sw", **batch)

    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.languages == ("en", "te")
    assert same(outputs(loaded, batch, language="te"), before["te"])

    # it can come back, with parameters of its own where languages have some
    model.add_language("sw")
    assert set(model._ownership.created["sw"]) == own
    assert trained_as_owned(model)
    assert same(outputs(model, batch, language="en"), before["en"])
    assert len(outputs(model, batch, language="sw")) > 0


def test_the_language_that_is_set_stays_unless_it_goes() -> None:
    model = stirred(adapted("bert", "lora", LANGUAGES))
    batch = batch_of(model)
    expected = outputs(model, batch, language="te")
    model.set_language("te")
    model.remove_language("en")
    assert model.language == "te"
    assert same(outputs(model, batch), expected)
    model.remove_language("te")
    assert model.language is None
    # the only one that is left needs no name
    assert same(outputs(model, batch), outputs(model, batch, language="sw"))


def test_frozen_languages_stay_frozen() -> None:
    model = adapted("bert", "lora", LANGUAGES)
    model.train_only("te")
    model.remove_language("en")
    assert set(model.language_parameters("te"))
    assert model.language_parameters("sw") == {}
    assert model.shared_parameters() == {}
    assert trained_as_owned(model)
    model.remove_language("sw")
    model.add_language("sw")
    assert set(model.language_parameters("sw"))  # a new one is trained


def test_a_step_goes_on_without_it() -> None:
    cell = tiny("bert")
    model = adapted(cell, "bottleneck", LANGUAGES)
    model.remove_language("sw")
    batches = {key: cell.batch() for key in model.languages}
    assert set(joint_step(model, batches).train_loss) == {"en", "te"}


def test_the_last_and_the_unknown_are_refused() -> None:
    model = adapted("bert", "lora", ["en", "sw"])
    with pytest.raises(LanguageError, match=r"Found 'SW'. Did you mean 'sw'\?"):
        model.remove_language("SW")
    model.remove_language("en")
    with pytest.raises(LanguageError, match=r"at least one language. Found that 'sw' is the only"):
        model.remove_language("sw")
    assert model.languages == ("sw",)
    assert len(outputs(model, batch_of(model))) > 0


def test_a_backend_that_cannot_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted("bert", "lora", ["en", "sw"])
    monkeypatch.setattr("hf_meta_adapters.modeling._router.RemovesLanguages", dict)
    with pytest.raises(ConfigurationError, match=r"backend 'peft', which is no `RemovesLanguages`"):
        model.remove_language("sw")
    assert model.languages == ("en", "sw")


def test_its_folder_goes_and_a_users_file_stays(tmp_path: Path) -> None:
    model = stirred(adapted("bert", "lora", LANGUAGES))
    model.save_pretrained(tmp_path)
    (tmp_path / "te" / "notes.txt").write_text("mine")
    model.remove_language("sw")
    model.remove_language("te")
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "sw").exists()
    assert [path.name for path in (tmp_path / "te").iterdir()] == ["notes.txt"]
    assert '"sw' not in (tmp_path / MANIFEST).read_text()
    assert load(tmp_path).languages == ("en",)


def test_no_memory_stays_with_it() -> None:
    model = adapted("bert", "copy_feed_forward", LANGUAGES)
    count = sum(parameter.numel() for parameter in model.parameters())
    own = sum(parameter.numel() for parameter in model.language_parameters("sw").values())
    model.remove_language("sw")
    assert sum(parameter.numel() for parameter in model.parameters()) == count - own
    assert torch.is_tensor(next(model.parameters()))
