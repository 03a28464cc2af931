"""Experts of one base, merged: hand-computed means, plain PEFT, and an independent TIES."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel
from safetensors.torch import load_file

from hf_meta_adapters import LanguageAdapterModel, get_language_model, merge_families
from hf_meta_adapters.errors import ConfigurationError, HubError, LanguageError
from hf_meta_adapters.hub.manifest import MANIFEST
from tests.adapted import METHODS, adapted, outputs, same, stirred
from tests.tiny import tiny
from tests.training import make_tokenizer

load = LanguageAdapterModel.from_pretrained
TARGETS = {"gpt2": ["c_attn"], "bert": ["query", "value"], "mt5": ["q"], "llama": ["q_proj"]}


def experts(method: str | None, name: str = "bert", **options: Any) -> list[LanguageAdapterModel]:
    """Two models of one base; `sw` is in both."""
    return [
        stirred(adapted(name, method, ["en", "sw"], **options)),
        stirred(adapted(name, method, ["sw", "te"], **options)),
    ]


def lora_experts(
    name: str = "bert", rank: int = 2, second: int = 3, **options: Any
) -> list[LanguageAdapterModel]:
    """Two models whose θ and φ are LoRA; θ has other ranks in each."""
    models = []
    for theta, languages in ((rank, ["en", "sw"]), (second, ["sw", "te"])):
        base = tiny(name).make()
        transposed = name == "gpt2"
        shared = LoraConfig(
            r=theta, lora_alpha=5, target_modules=TARGETS[name], fan_in_fan_out=transposed,
            **options,
        )  # fmt: skip
        own = LoraConfig(r=2, lora_alpha=3, target_modules=TARGETS[name], fan_in_fan_out=transposed)
        models.append(stirred(get_language_model(base, own, languages, shared=shared)))
    return models


def updates(folder: Path, scale: float) -> dict[str, np.ndarray]:
    """s · B · A of each layer in a file of PEFT."""
    state = load_file(folder / "adapter_model.safetensors")
    return {
        name.replace("lora_A", "lora"): scale
        * state[name.replace("lora_A", "lora_B")].double().numpy()
        @ matrix.double().numpy()
        for name, matrix in state.items()
        if "lora_A" in name
    }


def independent_ties(changes: list[np.ndarray], density: float) -> np.ndarray:
    """TIES with equal weights, entry by entry in plain Python."""
    kept = []
    for change in changes:
        order = np.argsort(-np.abs(change).ravel(), kind="stable")
        chosen = np.zeros(change.size)
        chosen[order[: int(density * change.size)]] = 1
        kept.append(change.ravel() * chosen)
    merged = np.zeros(changes[0].size)
    for entry in range(merged.size):
        values = [change[entry] for change in kept]
        sign = 1 if sum(values) >= 0 else -1
        agreeing = [value for value in values if value * sign > 0]
        merged[entry] = sum(agreeing) / max(len(agreeing), 1)
    return merged.reshape(changes[0].shape)


@pytest.mark.parametrize("method", [None, *(name for name in METHODS if name != "lora")])
def test_the_linear_merge_is_the_weighted_mean(method: str | None) -> None:
    first, second = experts(method)
    merged = merge_families([first, second], weights=[0.25, 0.75])
    assert merged.languages == ("en", "sw", "te")
    assert not merged.training
    one, two, both = (model.base_state_dict() for model in (first, second, merged))
    for name, tensor in both.items():
        torch.testing.assert_close(tensor, 0.25 * one[name] + 0.75 * two[name])
    sw = [list(model.language_parameters("sw").values()) for model in (first, second, merged)]
    for ours, theirs, new in zip(*sw, strict=True):
        torch.testing.assert_close(new, 0.25 * ours + 0.75 * theirs)
    for model, key in ((first, "en"), (second, "te")):
        kept = merged.language_parameters(key).values()
        assert all(map(torch.equal, kept, model.language_parameters(key).values()))


@pytest.mark.parametrize("name", ["llama", "gpt2", "mt5", "xlm-r"])
def test_decoders_seq2seq_and_tied_embeddings(name: str) -> None:
    first, second = experts("bottleneck", name)
    merged = merge_families([first, second])
    one, two, both = (model.base_state_dict() for model in (first, second, merged))
    for key, tensor in both.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (one[key] + two[key]) / 2)
    tied = first.base_model.get_output_embeddings().weight
    assert (tied is first.base_model.get_input_embeddings().weight) == (
        merged.base_model.get_output_embeddings().weight
        is merged.base_model.get_input_embeddings().weight
    )
    assert torch.isfinite(outputs(merged, tiny(name).batch(), language="te")[0]).all()


@pytest.mark.parametrize("as_what", ["module", "folder"])
def test_ties_of_full_weights(as_what: str, tmp_path: Path) -> None:
    models = [stirred(adapted("bert", None, [key])) for key in ("en", "sw", "te")]
    base = tiny("bert").make()
    base.save_pretrained(tmp_path / "base")
    given = base if as_what == "module" else tmp_path / "base"
    merged = merge_families(models, method="ties", density=0.3, base_model=given)
    start, found = base.state_dict(), merged.base_state_dict()
    states = [model.base_state_dict() for model in models]
    for name, tensor in found.items():
        changes = [(state[name] - start[name]).numpy() for state in states]
        expected = start[name].numpy() + independent_ties(changes, 0.3)
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TARGETS)
def test_theta_that_is_lora_is_merged_exactly(name: str) -> None:
    models = lora_experts(name)
    merged = merge_families(models, weights=[0.4, 0.6])
    # θ as full weights: every family without its φ
    weights = [model.shared_part.merged().state_dict() for model in (*models, merged)]
    for key, tensor in weights[-1].items():
        torch.testing.assert_close(tensor, 0.4 * weights[0][key] + 0.6 * weights[1][key])
    (config,) = merged.shared_part.model.peft_config.values()
    assert (config.r, config.lora_alpha) == (5, 5)


def test_theta_is_what_plain_peft_merges(tmp_path: Path) -> None:
    models = lora_experts(second=2)
    for number, model in enumerate(models):
        model.save_pretrained(tmp_path / str(number))
    plain = PeftModel.from_pretrained(tiny("bert").make(), tmp_path / "0" / "shared", "first")
    plain.load_adapter(tmp_path / "1" / "shared", "second")
    for method, kind, weights in (("linear", "cat", [0.4, 0.6]), ("ties", "ties_svd", [0.8, 1.2])):
        merged = merge_families(models, weights=[0.4, 0.6], method=method)
        merged.save_pretrained(tmp_path / method)
        plain.base_model.add_weighted_adapter(
            ["first", "second"], weights, kind, combination_type=kind, svd_rank=4, density=0.2
        )
        plain.save_pretrained(tmp_path / "plain", selected_adapters=[kind])
        expected = updates(tmp_path / "plain" / kind, 1.0)
        found = updates(tmp_path / method / "shared", 1.0)
        assert found.keys() == expected.keys()
        for layer, update in expected.items():
            np.testing.assert_allclose(found[layer], update, atol=1e-5)


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_a_language_in_two_families_gets_the_nearest_lora_of_its_rank(
    method: str, tmp_path: Path
) -> None:
    models = lora_experts()
    for number, model in enumerate(models):
        model.save_pretrained(tmp_path / str(number))
    density = {"density": 0.5} if method == "ties" else {}
    merged = merge_families([tmp_path / "0", tmp_path / "1"], method=method, **density)
    merged.save_pretrained(tmp_path / "merged")
    ours, theirs, found = (updates(tmp_path / name / "sw", 1.5) for name in ("0", "1", "merged"))
    for layer, update in found.items():
        whole = (ours[layer] + theirs[layer]) / 2
        if method == "ties":
            whole = independent_ties([ours[layer], theirs[layer]], 0.5)
        left, sizes, right = np.linalg.svd(whole)
        nearest = left[:, :2] * sizes[:2] @ right[:2]
        assert not np.allclose(whole, nearest, atol=1e-3)
        np.testing.assert_allclose(update, nearest, atol=1e-5)
    for key, folder in (("en", "0"), ("te", "1")):
        before = load_file(tmp_path / folder / key / "adapter_model.safetensors")
        after = load_file(tmp_path / "merged" / key / "adapter_model.safetensors")
        assert all(torch.equal(after[name], before[name]) for name in before)


def test_lora_of_embeddings_and_a_density_of_1() -> None:
    targets = ["word_embeddings", "query"]
    models = [
        stirred(
            get_language_model(
                tiny("bert").make(), None, [key], shared=LoraConfig(r=2, target_modules=targets)
            )
        )
        for key in ("en", "sw")
    ]
    merged = merge_families(models, method="ties", density=1.0)
    weights = [model.shared_part.merged().state_dict() for model in (*models, merged)]
    start = tiny("bert").make().state_dict()
    for name in weights[-1]:
        # four ranks hold the mean of two updates, but not all that TIES makes of it
        if not any(target in name for target in targets):
            assert torch.equal(weights[-1][name], start[name])
    changed = "bert.embeddings.word_embeddings.weight"
    one, two, both = (each[changed] - start[changed] for each in weights)
    expected = independent_ties([one.numpy(), two.numpy()], 1.0)
    left, sizes, right = np.linalg.svd(expected, full_matrices=False)
    rank = 4
    np.testing.assert_allclose(both, left[:, :rank] * sizes[:rank] @ right[:rank], atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"use_rslora": True}, {"rank_pattern": {"query": 1}, "alpha_pattern": {"value": 7}}]
)
def test_scales_and_ranks_of_single_layers(options: dict[str, Any]) -> None:
    models = lora_experts(**options)
    merged = merge_families(models)
    weights = [model.shared_part.merged().state_dict() for model in (*models, merged)]
    for key, tensor in weights[-1].items():
        torch.testing.assert_close(tensor, (weights[0][key] + weights[1][key]) / 2)


def test_one_adapter_for_all_and_a_theta_by_names() -> None:
    for options in ({"share_adapter": True}, {"shared": "LayerNorm"}, {"shared": "none"}):
        first, second = experts("bottleneck", **options)
        merged = merge_families([first, second])
        assert merged.share_adapter == first.share_adapter
        assert merged.shared == first.shared
        for name, tensor in merged.shared_parameters().items():
            one, two = (dict(model.named_parameters())[name] for model in (first, second))
            torch.testing.assert_close(tensor, (one + two) / 2)


def test_a_merged_family_is_saved_and_says_what_it_was_merged_from(tmp_path: Path) -> None:
    first, second = experts("bottleneck")
    first.save_pretrained(tmp_path / "private" / "english")
    merged = merge_families([tmp_path / "private" / "english", second], weights=[0.3, 0.7])
    merged.save_pretrained(tmp_path / "merged")
    again = load(tmp_path / "merged")
    again.save_pretrained(tmp_path / "again")
    for folder, model in (("merged", merged), ("again", again)):
        record = json.loads((tmp_path / folder / MANIFEST).read_text())["details"]["merged_from"]
        assert record == model.merged_from
        assert record == {
            "method": "linear",
            "families": [
                {"name": "english", "languages": ["en", "sw"], "weight": 0.3},
                {"name": "", "languages": ["sw", "te"], "weight": 0.7},
            ],
        }
    card = (tmp_path / "merged" / "README.md").read_text()
    assert (
        "Merged by `merge_families` (`linear`) from: `english` (en, sw; weight 0.3); a model in"
        " memory (sw, te; weight 0.7)." in card
    )
    for path in (tmp_path / "merged").rglob("*.*"):
        if path.suffix in (".json", ".md"):
            assert "private" not in path.read_text()
            assert str(tmp_path) not in path.read_text()
    batch = tiny("bert").batch()
    for key in merged.languages:
        assert same(outputs(merged, batch, language=key), outputs(again, batch, language=key))
    assert first.merged_from == {}


def test_a_named_base_stays_named(tmp_path: Path) -> None:
    tiny("bert").make().save_pretrained(tmp_path / "base")
    models = []
    for key in ("en", "sw"):
        base = type(tiny("bert").make()).from_pretrained(tmp_path / "base")
        shared = LoraConfig(target_modules=["query"])
        models.append(stirred(get_language_model(base, None, [key], shared=shared)))
    merged = merge_families(models)
    merged.save_pretrained(tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("model*"))
    content = json.loads((tmp_path / "merged" / MANIFEST).read_text())
    assert content["base_model"] == str(tmp_path / "base")


def test_tensors_are_read_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import weakref

    from hf_meta_adapters.modeling import _merged_folder

    alive: set[int] = set()
    most = 0

    def watched(folder: Path, stack: Any) -> dict[str, Any]:
        def read(function: Any) -> Any:
            nonlocal most
            tensor = function()
            alive.add(id(tensor))
            weakref.finalize(tensor, alive.discard, id(tensor))
            most = max(most, len(alive))
            return tensor

        files = checkpoint_tensors(folder, stack)
        return {name: lambda each=each: read(each) for name, each in files.items()}

    checkpoint_tensors = _merged_folder.checkpoint_tensors
    monkeypatch.setattr(_merged_folder, "checkpoint_tensors", watched)
    merge_families([stirred(adapted("bert", None, [key])) for key in ("en", "sw", "te", "yo")])
    assert 1 <= most <= 3


FAULTS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "one": (lambda: experts(None)[:1], {}, r"two families or more"),
    "text": (lambda: "me/en", {}, r"must be a list of two families"),
    "weights": (lambda: experts(None), {"weights": [0.5, 0.6]}, r"sum 1 within"),
    "too many weights": (lambda: experts(None), {"weights": [0.5, 0.3, 0.2]}, r"each of the 2"),
    "sign": (lambda: experts(None), {"weights": [1.5, -0.5]}, r"positive"),
    "method": (lambda: experts(None), {"method": "dare"}, r'must be "linear" or "ties"'),
    "density": (lambda: experts(None), {"density": 0.5}, r'option of `method="ties"`'),
    "range": (lambda: experts(None), {"method": "ties", "density": 0}, r"above 0 and at most 1"),
    "no base": (lambda: experts(None), {"method": "ties"}, r"TIES needs the weights"),
    "base": (lambda: experts(None), {"base_model": tiny("bert").make()}, r"Leave it out"),
    "other base": (
        lambda: experts(None),
        {"method": "ties", "base_model": tiny("bert", "token_classification").make()},
        r"must be a `BertForMaskedLM`",
    ),
    "no start": (
        lambda: experts("bottleneck"),
        {"method": "ties", "base_model": tiny("bert").make()},
        r"start of each parameter.*an adapter 'sw' of another method",
    ),
    "plain": (
        lambda: [tiny("bert").make(), tiny("bert").make()],
        {},
        r"families\[0\]` of type `BertForMaskedLM`",
    ),
    "architecture": (
        lambda: [adapted("bert", None, ["en"]), adapted("xlm-r", None, ["sw"])],
        {},
        r"`base_class` is 'XLMRobertaForMaskedLM' there and 'BertForMaskedLM' here",
    ),
    "head": (
        lambda: [
            adapted("bert", None, ["en"]),
            adapted(tiny("bert", "token_classification"), None, ["sw"]),
        ],
        {},
        r"`base_class` is 'BertForTokenClassification' there",
    ),
    "backend": (
        lambda: [adapted("bert", None, ["en"]), adapted("bert", "lora", ["sw"])],
        {},
        r"`backend` is 'peft' there and 'none' here",
    ),
    "method of adapters": (
        lambda: [adapted("bert", "ia3", ["en"]), adapted("bert", "lora", ["sw"])],
        {},
        r"`peft_type` in sw/adapter_config.json is 'LORA' there",
    ),
    "theta": (
        lambda: [adapted("bert", None, ["en"]), adapted("bert", None, ["sw"], shared="LayerNorm")],
        {},
        r"`shared` is 'LayerNorm' there and 'all' here",
    ),
    "frozen base": (
        lambda: [
            get_language_model(tiny("bert").make(seed=seed), None, [key], shared="LayerNorm")
            for seed, key in enumerate(("en", "sw"))
        ],
        {},
        r"one base model\. Found.*which is frozen, has other values",
    ),
    "DoRA": (
        lambda: [
            get_language_model(
                tiny("bert").make(),
                None,
                [key],
                shared=LoraConfig(target_modules=["query"], use_dora=True),
            )
            for key in ("en", "sw")
        ],
        {},
        r"two matrices for each layer.*use_dora=True",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_merged_is_refused_by_name(fault: str) -> None:
    make, options, message = FAULTS[fault]
    with pytest.raises(ConfigurationError, match=message):
        merge_families(make(), **options)


def test_all_differences_are_told_at_once() -> None:
    families = [
        adapted("bert", None, ["en"]),
        adapted("bert", "lora", ["sw"]),
        adapted("xlm-r", None, ["te"]),
    ]
    with pytest.raises(ConfigurationError, match=r"families\[1\].*`backend`.*families\[2\].*class"):
        merge_families(families)


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    for name, model in zip(("one", "two"), experts(None), strict=True):
        model.save_pretrained(tmp_path / name)
        make_tokenizer().save_pretrained(tmp_path / name)
    path = tmp_path / "two" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["truncation"] = {
        "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    path.write_text(json.dumps(content))
    merge_families([tmp_path / "one", tmp_path / "two"])  # how texts are cut does not matter
    content["model"]["vocab"]["w9"], content["model"]["vocab"]["w8"] = (
        content["model"]["vocab"]["w8"],
        content["model"]["vocab"]["w9"],
    )
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match=r"the tokenizer in `tokenizer.json` is another"):
        merge_families([tmp_path / "one", tmp_path / "two"])


def test_languages_that_differ_by_case_and_families_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(LanguageError, match="'EN'"):
        merge_families([adapted("bert", None, ["en"]), adapted("bert", None, ["EN"])])
    with pytest.raises(HubError, match=r"language_adapters\.json"):
        merge_families([tmp_path, tmp_path])


def test_whole_modules_beside_lora_are_averaged() -> None:
    models = []
    for key in ("en", "sw"):
        base = tiny("bert", "token_classification").make()
        shared = LoraConfig(target_modules=["query"], modules_to_save=["classifier"])
        models.append(stirred(get_language_model(base, None, [key], shared=shared)))
    merged = merge_families(models)
    heads = [model.shared_part.merged().classifier.weight for model in (*models, merged)]
    torch.testing.assert_close(heads[2], (heads[0] + heads[1]) / 2)
    with pytest.raises(ConfigurationError, match="beside LoRA"):
        merge_families(models, method="ties")


def test_a_theta_of_another_method_is_averaged() -> None:
    models = [
        stirred(
            get_language_model(
                tiny("bert").make(),
                None,
                [key],
                shared=IA3Config(target_modules=["key"], feedforward_modules=[]),
            )
        )
        for key in ("en", "sw")
    ]
    merged = merge_families(models)
    pairs = [list(model.shared_parameters().values()) for model in (*models, merged)]
    for one, two, both in zip(*pairs, strict=True):
        torch.testing.assert_close(both, (one + two) / 2)


def test_adapters_of_adapterhub() -> None:
    adapters = pytest.importorskip("adapters")
    models = [
        stirred(get_language_model(tiny("bert").make(), adapters.SeqBnConfig(), languages))
        for languages in (["en", "sw"], ["sw", "te"])
    ]
    merged = merge_families(models)
    named = [list(model.language_parameters("sw").values()) for model in (*models, merged)]
    for one, two, both in zip(*named, strict=True):
        torch.testing.assert_close(both, (one + two) / 2)


def test_adapters_that_have_no_mean_are_refused() -> None:
    adapters = pytest.importorskip("adapters")
    models = [
        get_language_model(tiny("bert").make(), adapters.LoReftConfig(), ["sw"]) for _ in range(2)
    ]
    with pytest.raises(ConfigurationError, match=r"orthogonal ReFT"):
        merge_families(models)
