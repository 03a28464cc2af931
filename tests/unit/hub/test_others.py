"""A family of which some languages were loaded, saved or pushed over the whole one: the others stay
with the θ that they were trained with, and with no other unless the user says so.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from hf_meta_adapters import LanguageAdapterModel, get_language_model, list_languages
from hf_meta_adapters.errors import ConfigurationError, HubError
from hf_meta_adapters.hub.manifest import MANIFEST
from tests.adapted import adapted, outputs, same, stirred
from tests.hub_server import HubServer
from tests.tiny import tiny

load = LanguageAdapterModel.from_pretrained
FAMILY = "anna/family"
LANGUAGES = ("en", "sw", "te")


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def moved(model: LanguageAdapterModel, parameters: dict[str, Any]) -> LanguageAdapterModel:
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(0.25)
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A family of three languages in a folder."""
    model = stirred(adapted("bert", "lora", LANGUAGES))
    model.save_pretrained(tmp_path / "family", scores=table(en=0.1, sw=0.2, te=0.3), license="mit")
    return tmp_path / "family"


def table(**values: float) -> dict[str, Any]:
    scores = {key: {"f1": value} for key, value in values.items()}
    return {"task": "ner", "metric": "f1", "scores": scores, "mean": 0.5}


def test_the_others_stay_with_the_same_theta(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    before, batch = files(saved), tiny("bert").batch()
    expected = {key: outputs(load(saved), batch, language=key) for key in LANGUAGES}
    model = load(saved, languages=["sw"])
    moved(model, model.language_parameters("sw"))
    model.add_language("yo", copy_from="sw")
    model.save_pretrained(saved, max_shard_size="10KB")  # θ in other files, but the same

    assert f"Kept in {saved}, which this model lacks: en, te." in caplog.text
    after, whole = files(saved), load(saved)
    assert whole.languages == ("en", "sw", "te", "yo")
    for key in ("en", "te"):
        assert same(outputs(whole, batch, language=key), expected[key])
        for name in (name for name in before if name.startswith(f"{key}/")):
            assert after[name] == before[name]
    assert not same(outputs(whole, batch, language="sw"), expected["sw"])
    assert same(outputs(whole, batch, language="yo"), outputs(whole, batch, language="sw"))

    # what was measured of a language that has changed is not said any more
    assert "| English (en) | 0.1 |" in (saved / "README.md").read_text()
    assert "0.2 |" not in (saved / "README.md").read_text()
    assert json.loads((saved / MANIFEST).read_text())["details"]["license"] == "mit"


def test_with_another_theta_the_user_has_to_choose(
    saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = files(saved)
    model = load(saved, languages=["sw"])
    moved(model, model.shared_parameters())
    message = (
        r"stays in a family if the base, θ and .* Found \['en', 'te'\] in '.*family', which this"
        r" model lacks, and that the model differs: θ has another `bert.*; and \d+ more. Load all"
        r' .* `other_languages="drop"` to delete them, `other_languages="keep"`'
    )
    with pytest.raises(HubError, match=message):
        model.save_pretrained(saved)
    assert files(saved) == before

    model.save_pretrained(saved, other_languages="keep")
    assert "en, te" in caplog.text
    assert load(saved).languages == LANGUAGES
    assert "## Scores" not in (saved / "README.md").read_text()  # of another θ
    after = files(saved)
    assert after["en/adapter_model.safetensors"] == before["en/adapter_model.safetensors"]

    model.save_pretrained(saved, other_languages="drop")
    assert load(saved).languages == ("sw",)
    assert not (saved / "en").exists()
    assert not (saved / "te").exists()


def test_another_kind_of_adapter_cannot_stand_beside_them(saved: Path) -> None:
    base = tiny("bert").make()
    other = get_language_model(base, LoraConfig(r=4, target_modules=["query"]), ["sw"])
    with pytest.raises(HubError, match=r"`lora_alpha`|`r` in|`target_modules` in"):
        other.save_pretrained(saved, other_languages="keep")
    # a model that was not loaded from the folder replaces what is there, as ever
    other.save_pretrained(saved)
    assert load(saved).languages == ("sw",)


def test_elsewhere_there_is_nothing_to_keep(saved: Path, tmp_path: Path) -> None:
    model = load(saved, languages=["sw"])
    moved(model, model.shared_parameters())
    model.save_pretrained(tmp_path / "other", other_languages="keep")
    assert load(tmp_path / "other").languages == ("sw",)
    model.save_pretrained(tmp_path / "other")
    assert load(saved).languages == LANGUAGES


def test_what_is_removed_goes_and_what_is_left_out_stays(saved: Path) -> None:
    model = load(saved, languages=["sw", "te"])
    model.remove_language("te")
    model.save_pretrained(saved)
    assert load(saved).languages == ("en", "sw")
    assert not (saved / "te").exists()


@pytest.mark.parametrize("options", [{"share_adapter": True}, {"method": None}])
def test_languages_without_adapters_of_their_own_keep_their_names(
    options: dict[str, Any], tmp_path: Path
) -> None:
    method = options.pop("method", "lora")
    stirred(adapted("bert", method, LANGUAGES, **options)).save_pretrained(tmp_path)
    load(tmp_path, languages=["te"]).save_pretrained(tmp_path)
    assert load(tmp_path).languages == LANGUAGES
    model = load(tmp_path, languages=["te"])
    moved(model, model.shared_parameters())
    with pytest.raises(HubError, match="θ has another"):
        model.save_pretrained(tmp_path)


def test_theta_as_an_adapter_is_compared_as_well(tmp_path: Path) -> None:
    tiny("llama").make().save_pretrained(tmp_path / "base")
    base = type(tiny("llama").make()).from_pretrained(tmp_path / "base")
    phi, theta = (LoraConfig(r=2, target_modules=[name]) for name in ("q_proj", "v_proj"))
    place = tmp_path / "family"
    stirred(get_language_model(base, phi, LANGUAGES, shared=theta)).save_pretrained(place)

    model = load(place, languages=["te"])
    moved(model, model.language_parameters("te")).save_pretrained(place)
    assert load(place).languages == LANGUAGES
    moved(model, model.shared_parameters())
    with pytest.raises(HubError, match="θ has another `base_model"):
        model.save_pretrained(place)


@pytest.mark.parametrize(
    ("keyword", "said"),
    [
        ({"max_shard_sise": "1GB"}, r"`max_shard_sise` \(did you mean `max_shard_size`\?\)"),
        ({"score": {}}, r"`score` \(did you mean `scores`\?\)"),
        ({"safe_serialization": False, "zzz": 1}, "Found `safe_serialization`, `zzz`. Correct"),
        ({"other_languages": "all"}, '`other_languages` must be "keep", "drop" or None. Found'),
    ],
)
def test_an_unknown_keyword_is_refused_before_anything_is_written(
    keyword: dict[str, Any], said: str, tmp_path: Path
) -> None:
    model = adapted("bert", "lora")
    for write in (model.save_pretrained, model.push_to_hub):
        with pytest.raises(ConfigurationError, match=said):
            write(str(tmp_path / "model"), **keyword)
    assert not list(tmp_path.iterdir())


def test_a_push_keeps_them_too(hub: HubServer, caplog: pytest.LogCaptureFixture) -> None:
    batch = tiny("bert").batch()
    whole = stirred(adapted("bert", "lora", LANGUAGES))
    whole.push_to_hub(FAMILY)
    before = dict(hub.repositories[FAMILY].files())
    model = load(FAMILY, languages=["sw"])
    moved(model, model.language_parameters("sw")).push_to_hub(FAMILY)
    assert f"Kept in {FAMILY}, which this model lacks: en, te." in caplog.text
    after = hub.repositories[FAMILY].files()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {MANIFEST, "sw/adapter_model.safetensors"}
    for key in ("en", "te"):
        assert same(outputs(load(FAMILY), batch, language=key), outputs(whole, batch, language=key))

    moved(model, model.shared_parameters())
    commits = dict(hub.repositories[FAMILY].commits)
    with pytest.raises(HubError, match=r"Found \['en', 'te'\] in 'anna/family', which this model"):
        model.push_to_hub(FAMILY)
    assert hub.repositories[FAMILY].commits == commits
    model.push_to_hub(FAMILY, other_languages="keep")
    assert list_languages(FAMILY) == LANGUAGES
    assert load(FAMILY).languages == LANGUAGES
    model.push_to_hub(FAMILY, other_languages="drop")
    names = hub.repositories[FAMILY].files()
    assert list_languages(FAMILY) == ("sw",)
    assert not [name for name in names if name.startswith(("en/", "te/"))]


def test_a_push_deletes_what_was_removed_and_no_language_of_somebody_else(hub: HubServer) -> None:
    model = stirred(adapted("bert", "lora", LANGUAGES))
    model.push_to_hub(FAMILY)
    model.remove_language("te")
    somebody = load(FAMILY, languages=["sw"])
    somebody.add_language("yo")
    somebody.push_to_hub(FAMILY, languages=["yo"])
    with pytest.raises(HubError, match=r"'anna/family' with \['yo'\], which this model lacks"):
        model.push_to_hub(FAMILY)
    model.push_to_hub(FAMILY, other_languages="keep")
    assert list_languages(FAMILY) == ("en", "sw", "yo")
    assert not [name for name in hub.repositories[FAMILY].files() if name.startswith("te/")]
    assert load(FAMILY).languages == ("en", "sw", "yo")


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="hf_meta_adapters")
