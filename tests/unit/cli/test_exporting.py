"""A family as files for a server."""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from hf_meta_adapters import LanguageAdapterModel, get_language_model
from hf_meta_adapters.cli.command import main
from hf_meta_adapters.cli.exporting import (
    RANKS,
    VllmExport,
    adapters_of_texts,
    export_for_vllm,
    export_merged,
)
from hf_meta_adapters.errors import ConfigurationError, LanguageError
from tests.adapted import stirred
from tests.tiny import tiny


def saved(folder, *, theta_rank=None, rank=2, base_folder=None):
    base = tiny("llama").make()
    shared = "all"
    if theta_rank is not None:
        shared = LoraConfig(r=theta_rank, lora_alpha=3, target_modules=["q_proj", "v_proj"])
    if base_folder is not None:
        base.save_pretrained(base_folder)
        base = AutoModelForCausalLM.from_pretrained(base_folder)

    phi = LoraConfig(r=rank, target_modules=["q_proj", "down_proj"])
    model = stirred(get_language_model(base, phi, ["en", "zh-Hant"], shared=shared)).eval()
    model.save_pretrained(folder)
    return model


def logits(model, **options):
    inputs = {name: value for name, value in tiny("llama").batch().items() if name != "labels"}
    with torch.no_grad():
        return model(**inputs, **options).logits


@pytest.mark.parametrize("theta_rank", [None, 7])
@pytest.mark.parametrize("named", [False, True])
def test_plain_peft_loads_what_the_command_line_names(theta_rank, named, tmp_path):
    """As vLLM does: the base from the first argument, an adapter from each `name=path`."""
    base_folder = tmp_path / "base" if named else None
    model = saved(tmp_path / "family", theta_rank=theta_rank, base_folder=base_folder)
    result = export_for_vllm(str(tmp_path / "family"), tmp_path / "served")

    words = shlex.split(result.command())
    base = words[2]
    modules = dict(word.split("=") for word in words[words.index("--lora-modules") + 1 :])
    assert list(modules) == ["en", "zh-Hant"]
    for language, path in modules.items():
        served = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), path)
        expected = logits(model, language=language)
        torch.testing.assert_close(logits(served), expected, rtol=1e-5, atol=1e-5)

    limit = int(words[words.index("--max-lora-rank") + 1])
    assert limit == (16 if theta_rank else 8)

    told = json.loads((tmp_path / "served" / "languages.json").read_text())
    assert told == {"base_model": base, "adapters": {"en": "en", "zh-Hant": "zh-Hant"}}


def test_the_files_are_those_that_vllm_reads(tmp_path):
    """What its loader takes from them: `r`, `lora_alpha`, `use_rslora`; it reads no patterns."""
    saved(tmp_path / "family", theta_rank=3)
    result = export_for_vllm(str(tmp_path / "family"), tmp_path / "served", languages=["en"])

    assert list(result.adapters) == ["en"]
    config = json.loads((tmp_path / "served/en/adapter_config.json").read_text())
    assert config["lora_alpha"] / config["r"] == 1
    assert (config["bias"], config["use_rslora"], config["use_dora"]) == ("none", False, False)
    assert config["modules_to_save"] is None

    tensors = load_file(tmp_path / "served/en/adapter_model.safetensors")
    for name, tensor in tensors.items():
        module, _, kind = name.removeprefix("base_model.model.").rpartition(".lora_")
        assert kind in ("A.weight", "B.weight")
        assert module.split(".")[-1] in ("q_proj", "v_proj", "down_proj")
        assert tensor.shape[0 if kind[0] == "A" else 1] == config["r"] <= result.max_lora_rank


@pytest.mark.parametrize(("rank", "least"), [(1, 1), (2, 8), (8, 8), (65, 128), (300, 320)])
def test_the_least_rank_that_fits(rank, least):
    assert VllmExport("base", {}, rank).max_lora_rank == least
    assert least in RANKS


def test_a_rank_that_vllm_does_not_serve(tmp_path):
    saved(tmp_path / "family", rank=513)
    with pytest.raises(ConfigurationError, match=r"at most rank 512\. Found 513"):
        export_for_vllm(str(tmp_path / "family"), tmp_path / "served")


def test_the_command_prints_what_starts_the_server(tmp_path, capsys):
    saved(tmp_path / "family", theta_rank=3)
    words = ["export", str(tmp_path / "family"), str(tmp_path / "served"), "--languages", "en"]
    assert main([*words, "--for", "vllm"]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed.startswith("vllm serve")
    assert printed.endswith(f"--max-lora-rank 8 --lora-modules en={tmp_path / 'served' / 'en'}")

    # the folder is there now
    assert main([*words, "--for", "vllm"]) == 2
    assert "new or empty" in capsys.readouterr().err

    words[2] = str(tmp_path / "plain")
    assert main([*words, "--for", "merged"]) == 0
    assert capsys.readouterr().out.strip().endswith(f"en: {tmp_path / 'plain' / 'en'}")


def by_script(texts):
    return ["zh" if text > "一" else {"Hello": "en"}.get(text, "und") for text in texts]


def test_the_map_routes_requests(tmp_path, capsys):
    saved(tmp_path / "family", theta_rank=3)
    words = ["export", str(tmp_path / "family"), str(tmp_path / "served"), "--for", "vllm"]
    assert main([*words, "--fallback", "fr"]) == 1
    assert "must be one of this model" in capsys.readouterr().err

    assert main([*words, "--fallback", "en"]) == 0
    file = tmp_path / "served" / "languages.json"
    assert json.loads(file.read_text())["fallback"] == "en"
    found = adapters_of_texts(file, ["你好", "Hello", "Ciao"], by_script)
    assert found == ["zh-Hant", "en", "en"]

    content = json.loads(file.read_text())
    del content["fallback"]
    file.write_text(json.dumps(content))
    with pytest.raises(LanguageError, match="Found row 1"):
        adapters_of_texts(file, ["Hello", "Ciao"], by_script)

    words[2:] = [str(tmp_path / "plain"), "--for", "merged", "--fallback", "en"]
    assert main(words) == 2
    assert "Leave it out" in capsys.readouterr().err


def test_merged_models_are_plain_checkpoints(tmp_path):
    model = saved(tmp_path / "family", theta_rank=3)
    words = Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    tokenizer.save_pretrained(tmp_path / "family")
    places = export_merged(str(tmp_path / "family"), tmp_path / "plain")
    assert AutoTokenizer.from_pretrained(places["en"])("a").input_ids == [0]

    for language, path in places.items():
        plain = AutoModelForCausalLM.from_pretrained(path)
        expected = logits(model, language=language)
        torch.testing.assert_close(logits(plain), expected, rtol=1e-5, atol=1e-5)

    with pytest.raises(ConfigurationError, match="new or empty"):
        export_merged(str(tmp_path / "family"), tmp_path / "plain")


def test_gguf_files_are_made_elsewhere(tmp_path, capsys):
    words = ["export", "me/family", str(tmp_path / "out"), "--for", "gguf"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert f"hf-meta-adapters export me/family {tmp_path / 'out'} --for merged" in told
    assert f"python convert_hf_to_gguf.py {tmp_path / 'out'}/LANGUAGE" in told
    assert f"python convert_lora_to_gguf.py {tmp_path / 'out'}/LANGUAGE" in told
    assert not (tmp_path / "out").exists()


def test_other_methods_are_refused_by_name(tmp_path):
    from tests.training import make_model

    make_model(["en"]).save_pretrained(tmp_path / "family")
    assert LanguageAdapterModel.from_pretrained(tmp_path / "family").languages == ("en",)
    with pytest.raises(ConfigurationError, match=r"Found `BottleneckConfig`.*merge_language"):
        export_for_vllm(str(tmp_path / "family"), tmp_path / "served")
    with pytest.raises(ConfigurationError, match="merged"):
        export_merged(str(tmp_path / "family"), tmp_path / "plain")
