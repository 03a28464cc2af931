"""Published by one process, loaded by others with an empty cache: with the package, and where it
cannot be imported.
"""

from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.hub_client import TOKEN, run
from tests.hub_server import HubServer

_COMMON = """
import torch, transformers
from safetensors.torch import save_file
text = {"input_ids": torch.tensor([[5, 6, 7, 8, 9]])}
results = {}
def note(name, outputs):
    results[name] = outputs[0].detach().contiguous()
"""
_PUBLISH = (
    _COMMON
    + """
from tests.adapted import adapted, METHODS, stirred
from tests.tiny import tiny
from peft import LoraConfig
from hf_meta_adapters import get_language_model
torch.manual_seed(0)
families = {method: adapted("bert", method) for method in METHODS}
tiny("llama").make().push_to_hub("anna/base")
base = transformers.AutoModelForCausalLM.from_pretrained("anna/base")
theta, phi = (LoraConfig(r=2, target_modules=[name]) for name in ("q_proj", "v_proj"))
families["frozen"] = get_language_model(base, phi, ["en", "sw"], shared=theta)
if ADAPTERS:
    import adapters
    base = tiny("bert").make()
    families["adapters"] = get_language_model(base, adapters.SeqBnConfig(), ["en", "sw"])
for name, model in families.items():
    stirred(model).push_to_hub(f"anna/{name}")
    for language in model.languages:
        note(f"{name}-{language}", model(language=language, **text))
save_file(results, "expected.safetensors")
"""
)
_LOAD = (
    _COMMON
    + """
from hf_meta_adapters import LanguageAdapterModel, list_languages
for name in NAMES:
    for language in list_languages(f"anna/{name}"):
        model = LanguageAdapterModel.from_pretrained(f"anna/{name}", languages=[language])
        note(f"{name}-{language}", model(language=language, **text))
save_file(results, "found.safetensors")
"""
)
_PLAIN = (
    _COMMON
    + """
import huggingface_hub
from peft import PeftModel
for name in ("lora", "ia3", "layer_norm"):
    for language in ("en", "sw"):
        base = transformers.AutoModelForMaskedLM.from_pretrained(f"anna/{name}")
        model = PeftModel.from_pretrained(base, f"anna/{name}", subfolder=language)
        note(f"{name}-{language}", model.eval()(**text))
if ADAPTERS:
    import adapters
    for language in ("en", "sw"):
        base = transformers.AutoModelForMaskedLM.from_pretrained("anna/adapters")
        adapters.init(base)
        folder = huggingface_hub.snapshot_download("anna/adapters", allow_patterns=f"{language}/*")
        base.set_active_adapters(base.load_adapter(f"{folder}/{language}", use_safetensors=True))
        note(f"adapters-{language}", base(**text))
try:
    import hf_meta_adapters
except ModuleNotFoundError:
    save_file(results, "plain.safetensors")
"""
)


@pytest.mark.slow
def test_what_one_process_publishes_others_load_bitwise(tmp_path: Path) -> None:
    has_adapters = "adapters" in packages_distributions()
    head = f"ADAPTERS = {has_adapters}\n"
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    with HubServer() as hub:
        run(hub, head + _PUBLISH, tmp_path / "one", token=TOKEN)
        names = [name.removeprefix("anna/") for name in hub.repositories if name != "anna/base"]
        assert len(names) == 8 + has_adapters
        manifest = hub.repositories["anna/frozen"].files()["language_adapters.json"].decode()
        assert '"base_model": "anna/base"' in manifest
        assert f'"base_revision": "{hub.repositories["anna/base"].refs["main"]}"' in manifest
        assert "model.safetensors" not in hub.repositories["anna/frozen"].files()
        run(hub, f"NAMES = {names}\n{_LOAD}", tmp_path / "two")
        run(hub, head + _PLAIN, tmp_path / "three", installed=False)
    expected = load_file(tmp_path / "one" / "expected.safetensors")
    found = load_file(tmp_path / "two" / "found.safetensors")
    plain = load_file(tmp_path / "three" / "plain.safetensors")
    assert found.keys() == expected.keys()
    assert len(plain) == 6 + 2 * has_adapters
    for some in (found, plain):
        assert {name for name in some if not torch.equal(some[name], expected[name])} == set()
    assert not torch.equal(expected["lora-en"], expected["lora-sw"])
