"""From a model to a repository and back, by the real client over HTTP."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import HfApi
from peft import LoraConfig

from hf_meta_adapters import LanguageAdapterModel, get_language_model, list_languages
from hf_meta_adapters.errors import HubError, LanguageError
from hf_meta_adapters.hub.base_model import BaseReference
from hf_meta_adapters.hub.manifest import MANIFEST, SHARED_ADAPTER
from tests.adapted import METHODS, adapted, outputs, same, snapshot, stirred
from tests.hub_client import TOKEN
from tests.hub_server import HubServer
from tests.tiny import tiny
from tests.training import make_tokenizer

load = LanguageAdapterModel.from_pretrained
FAMILY = "anna/family"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_comes_back_bitwise(method: str, hub: HubServer) -> None:
    cell = tiny("bert")
    model = stirred(adapted(cell, method, ["en", "zh-Hant"]))
    commit = model.push_to_hub(FAMILY)
    assert commit.oid == hub.repositories[FAMILY].refs["main"]
    assert len(hub.repositories[FAMILY].commits) == 2  # the first one, of the Hub itself, and ours
    loaded = load(FAMILY)
    for key in model.languages:
        assert same(
            outputs(loaded, cell.batch(), language=key), outputs(model, cell.batch(), language=key)
        )
    assert list_languages(FAMILY) == ("en", "zh-Hant")
    # other people's tools find the same files
    assert set(hub.repositories[FAMILY].files()) >= {
        "config.json",
        "model.safetensors",
        "README.md",
        MANIFEST,
    }


@pytest.mark.parametrize(
    "options", [{"share_adapter": True}, {"shared": "none"}, {"shared": "layer_norm"}]
)
def test_every_kind_of_theta_comes_back(options: dict, hub: HubServer) -> None:
    cell = tiny("mt5")
    model = stirred(adapted(cell, "bottleneck", **options))
    model.push_to_hub(FAMILY)
    loaded = load(FAMILY, languages=["sw"])
    assert same(
        outputs(loaded, cell.batch(), language="sw"), outputs(model, cell.batch(), language="sw")
    )
    assert loaded.share_adapter == options.get("share_adapter", False)


def test_only_the_files_of_the_languages_cross_the_wire(hub: HubServer) -> None:
    model = stirred(adapted("bert", "lora", ["en", "sw", "te"]))
    model.push_to_hub(FAMILY, processing_class=make_tokenizer())
    files = hub.repositories[FAMILY].files()
    assert list_languages(FAMILY) == ("en", "sw", "te")
    assert set(hub.downloaded()) == {MANIFEST}
    loaded = load(FAMILY, languages=["sw"])
    assert loaded.languages == ("sw",)
    wanted = {
        MANIFEST,
        "config.json",
        "model.safetensors",
        "sw/adapter_config.json",
        "sw/adapter_model.safetensors",
    }
    assert hub.downloaded() == {name: len(files[name]) for name in wanted}
    load(FAMILY, languages=["sw", "en"])  # what is there is not asked for again
    config, weights = "en/adapter_config.json", "en/adapter_model.safetensors"
    found = hub.downloaded()
    found.pop(config, None)  # where it is the same as that of `sw`, the client has it already
    assert found == {name: len(files[name]) for name in wanted | {weights}}
    assert not any(
        request.token for request in hub.requests if "/cdn/" in request.path
    )  # another host


def test_a_revision_a_branch_and_a_moved_branch(hub: HubServer) -> None:
    cell = tiny("bert")
    first = stirred(adapted(cell, "lora"))
    old = first.push_to_hub(FAMILY, commit_message="the first")
    before = outputs(first, cell.batch(), language="sw")
    second = stirred(first)
    second.push_to_hub(FAMILY, revision="next")
    repository = hub.repositories[FAMILY]
    assert repository.messages[1] == "the first"
    assert same(outputs(load(FAMILY), cell.batch(), language="sw"), before)
    after = outputs(second, cell.batch(), language="sw")
    assert same(outputs(load(FAMILY, revision="next"), cell.batch(), language="sw"), after)
    second.push_to_hub(FAMILY)
    assert same(outputs(load(FAMILY), cell.batch(), language="sw"), after)
    assert same(outputs(load(FAMILY, revision=old.oid), cell.batch(), language="sw"), before)


def test_a_language_joins_and_the_rest_is_not_touched(hub: HubServer) -> None:
    cell = tiny("bert")
    stirred(adapted(cell, "lora", ["en", "sw"])).push_to_hub(FAMILY)
    before = dict(hub.repositories[FAMILY].files())
    model = load(FAMILY, languages=["sw"])
    model.add_language("yo", copy_from="sw")
    model.train_only("yo")
    stirred(model)
    hub.requests.clear()
    model.push_to_hub(FAMILY, languages=["yo"])
    after = hub.repositories[FAMILY].files()
    new = {"yo/adapter_config.json", "yo/adapter_model.safetensors"}
    assert set(after) - set(before) == new
    assert {name for name in before if before[name] != after[name]} == {MANIFEST, "README.md"}
    assert list_languages(FAMILY) == ("en", "sw", "yo")
    loaded = load(FAMILY)
    assert same(
        outputs(loaded, cell.batch(), language="yo"), outputs(model, cell.batch(), language="yo")
    )
    assert b"Yoruba (yo)" in after["README.md"]
    uploaded = [request for request in hub.requests if request.method == "PUT"]
    assert [request.received for request in uploaded] == [
        len(after["yo/adapter_model.safetensors"])
    ]


def test_a_language_is_replaced_by_itself(hub: HubServer) -> None:
    model = stirred(adapted("bert", "lora", ["en", "sw"], shared="none"))
    model.push_to_hub(FAMILY)
    before = dict(hub.repositories[FAMILY].files())
    model.train_only("sw")
    stirred(model).push_to_hub(FAMILY, languages=["sw"])
    after = hub.repositories[FAMILY].files()
    assert {name for name in after if before[name] != after[name]} == {
        "sw/adapter_model.safetensors",
        MANIFEST,  # with the checksum of the weights
    }


def test_a_language_joins_somebody_elses_family_by_a_pull_request(hub: HubServer) -> None:
    stirred(adapted("bert", "lora", ["en", "sw"])).push_to_hub(FAMILY)
    model = load(FAMILY, languages=["sw"])
    model.add_language("yo")
    with pytest.raises(
        HubError, match=r"can be written by its owner. Found.*`create_pr=True` to offer"
    ):
        model.push_to_hub(FAMILY, languages=["yo"], token="hf_bens_token")
    commit = model.push_to_hub(FAMILY, languages=["yo"], token="hf_bens_token", create_pr=True)
    assert commit.pr_url.endswith("/discussions/1")
    assert list_languages(FAMILY) == ("en", "sw")
    assert list_languages(FAMILY, revision="refs/pr/1") == ("en", "sw", "yo")
    assert load(FAMILY, revision="refs/pr/1", languages=["yo"]).languages == ("yo",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda: stirred(adapted("bert", "lora", ["yo"])),
            "θ has another `bert.embeddings.LayerNorm.bias`.*more",
        ),
        (
            lambda: stirred(adapted("bert", "ia3", ["yo"])),
            "`peft_type` in en/adapter_config.json is 'LORA' there",
        ),
        (
            lambda: stirred(adapted("xlm-r", "lora", ["yo"])),
            "`base_class` is 'BertForMaskedLM' there and 'XLMRoberta",
        ),
        (
            lambda: stirred(adapted("bert", "lora", ["yo"], share_adapter=True)),
            "`share_adapter` is False there",
        ),
    ],
)
def test_a_language_of_another_family_cannot_join(change, message: str, hub: HubServer) -> None:
    stirred(adapted("bert", "lora", ["en", "sw"])).push_to_hub(FAMILY)
    before = dict(hub.repositories[FAMILY].commits)
    with pytest.raises(
        HubError,
        match=rf"same base, θ and kind of adapter. Found that 'anna/family' differs: .*{message}",
    ):
        change().push_to_hub(FAMILY, languages=["yo"])
    assert hub.repositories[FAMILY].commits == before


def test_the_same_theta_in_other_shards_is_the_same_family(hub: HubServer) -> None:
    model = stirred(adapted("bert", "lora", ["en", "sw"]))
    model.push_to_hub(FAMILY, languages=["en"], max_shard_size="10KB")
    assert "model.safetensors.index.json" in hub.repositories[FAMILY].files()
    model.push_to_hub(FAMILY, languages=["sw"])
    assert "model.safetensors" not in hub.repositories[FAMILY].files()
    assert load(FAMILY).languages == ("en", "sw")
    model.push_to_hub(FAMILY)
    names = set(hub.repositories[FAMILY].files())
    assert "model.safetensors" in names
    assert not any("-of-" in name or "index" in name for name in names)
    assert same(
        outputs(load(FAMILY), tiny("bert").batch(), language="sw"),
        outputs(model, tiny("bert").batch(), language="sw"),
    )


def test_no_language_is_ever_lost(hub: HubServer) -> None:
    model = stirred(adapted("bert", "lora", ["en", "sw"]))
    model.push_to_hub(FAMILY)
    few = stirred(adapted("bert", "lora", ["sw"]))
    with pytest.raises(
        HubError,
        match=r"Found 'anna/family' with \['en'\], which this model lacks. Use `push_to_hub",
    ):
        few.push_to_hub(FAMILY)
    with pytest.raises(LanguageError, match="Found 'fr'"):
        load(FAMILY).push_to_hub(FAMILY, languages=["fr"])
    other = load(FAMILY, languages=["en"])
    other.add_language("SW")
    with pytest.raises(HubError, match="differ by more than letter case"):
        other.push_to_hub(FAMILY, languages=["SW"])


def test_further_files_of_a_repository_are_kept(hub: HubServer) -> None:
    card = b"---\nlicense: mit\ntags: [mine]\n---\n# Mine\n\nMy words.\n"
    hub.repository(FAMILY, {"notes.txt": b"notes", "README.md": card})
    stirred(adapted("bert", "lora")).push_to_hub(FAMILY)
    files = hub.repositories[FAMILY].files()
    assert files["notes.txt"] == b"notes"
    text = files["README.md"].decode()
    assert text.index("My words.") < text.index("generated by hf_meta_adapters: begin")
    assert "license: mit" in text
    assert "- mine" in text


def test_a_private_repository_is_read_with_its_token_only(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted("bert", "lora").push_to_hub(FAMILY, private=True)
    assert hub.repositories[FAMILY].private
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        HubError, match=r"must exist and be readable with the token. Found.*`hf auth login`"
    ):
        load(FAMILY)
    assert load(FAMILY, token=TOKEN).languages == ("en", "sw")


def test_a_cache_is_enough_without_a_connection(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted("bert", "lora")
    model.push_to_hub(FAMILY)
    load(FAMILY, languages=["sw"], cache_dir=tmp_path / "here")
    hub.requests.clear()
    assert load(
        FAMILY, languages=["sw"], cache_dir=tmp_path / "here", local_files_only=True
    ).languages == ("sw",)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load(FAMILY, languages=["sw"], cache_dir=tmp_path / "here").languages == ("sw",)
    with pytest.raises(
        HubError,
        match=r"Without a connection.* in the cache.*without en/adapter_model.safetensors",
    ):
        load(FAMILY, cache_dir=tmp_path / "here")
    with pytest.raises(HubError, match=r"must be reachable or in the cache. Found"):
        load(FAMILY, cache_dir=tmp_path / "there")
    assert hub.requests == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.__exit__()  # the server is gone, and nobody has said so
    assert load(FAMILY, languages=["sw"], cache_dir=tmp_path / "here").languages == ("sw",)


def test_type_device_and_head_can_be_chosen(hub: HubServer) -> None:
    stirred(adapted("bert", "lora")).push_to_hub(FAMILY)
    found = load(
        FAMILY,
        languages=["sw"],
        auto_class=transformers.AutoModelForTokenClassification,
        num_labels=5,
        dtype=torch.bfloat16,
        device_map="cpu",
    )
    batch = {key: value for key, value in tiny("bert").batch().items() if key != "labels"}
    assert found(language="sw", **batch).logits.shape[-1] == 5
    assert found.base_model.dtype == torch.bfloat16


def test_the_manifest_declares_what_the_hub_has(hub: HubServer) -> None:
    adapted("bert", "lora").push_to_hub(FAMILY)
    files = hub.repositories[FAMILY].files()
    declared = json.loads(files[MANIFEST])["files"]
    assert declared == {
        name: len(data) for name, data in files.items() if name.endswith(".safetensors")
    }


def test_a_base_in_a_folder_is_not_published(hub: HubServer, tmp_path: Path) -> None:
    tiny("llama").make().save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theta = LoraConfig(r=2, target_modules=["q_proj"])
    model = get_language_model(
        base, LoraConfig(r=2, target_modules=["v_proj"]), ["en", "sw"], shared=theta
    )
    with pytest.raises(
        HubError, match=r"over a frozen base must name a repository on the Hub. Found the folder"
    ):
        model.push_to_hub(FAMILY)
    assert FAMILY not in hub.repositories
    before = snapshot(model)
    model._reference = BaseReference()  # then its weights are part of the family
    model.push_to_hub(FAMILY)
    assert f"{SHARED_ADAPTER}/adapter_model.safetensors" in hub.repositories[FAMILY].files()
    loaded = load(FAMILY)
    assert {name.split(".")[-1] for name in before} == {
        name.split(".")[-1] for name in snapshot(loaded)
    }


def test_the_token_is_neither_shown_nor_written(
    hub: HubServer, tmp_path: Path, capsys, caplog
) -> None:
    caplog.set_level("DEBUG")
    model = adapted("bert", "lora")
    model.push_to_hub(FAMILY, token=TOKEN, private=True)
    load(FAMILY, token=TOKEN, cache_dir=tmp_path)
    with pytest.raises(HubError) as caught:
        model.push_to_hub("ben/other", token=TOKEN)
    shown = capsys.readouterr()
    assert TOKEN not in f"{caught.value}{shown.out}{shown.err}{caplog.text}"
    written = [
        *hub.repositories[FAMILY].files().values(),
        *(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()),
    ]
    assert not any(TOKEN.encode() in content for content in written)


def test_the_metadata_of_the_card_are_those_of_the_hub(hub: HubServer) -> None:
    adapted("bert", "lora", ["zh-Hant", "sw"]).push_to_hub(FAMILY)
    assert any(
        request.path == "/api/validate-yaml" and request.status == 200 for request in hub.requests
    )
    assert (
        HfApi(endpoint=hub.endpoint).model_info(FAMILY).sha == hub.repositories[FAMILY].refs["main"]
    )
