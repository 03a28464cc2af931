"""The manifest keeps the keys of its format, whatever the attributes of `Family` are called."""

import hashlib
import json
from pathlib import Path

from hf_meta_adapters.hub.checksums import file_sha256
from hf_meta_adapters.hub.manifest import MANIFEST, Family, read_manifest

FAMILY = Family(
    languages=("en", "sw"),
    backend="peft",
    shared="all",
    one_adapter_for_all=True,
    theta_is_adapter=False,
    base_model="",
    base_revision="",
    base_class="BertForMaskedLM",
    body="bert",
    details={"note": [1, "two"]},
    files={"model.safetensors": 9},
    hashes={"model.safetensors": "5f2e", "config.json": "b10a"},
)
FORMAT_1 = {
    "format": 1,
    "hf_meta_adapters": "0.1.0",
    "languages": ["en", "sw"],
    "backend": "peft",
    "shared": "all",
    "share_adapter": True,
    "shared_adapter": False,
    "base_model": "",
    "base_revision": "",
    "base_class": "BertForMaskedLM",
    "body": "bert",
    "details": {"note": [1, "two"]},
    "files": {"model.safetensors": 9},
    "sha256": {"model.safetensors": "5f2e", "config.json": "b10a"},
}


def test_the_keys_of_format_1_are_fixed() -> None:
    written = json.loads(FAMILY.to_json())
    assert list(written) == list(FORMAT_1)
    assert {**written, "hf_meta_adapters": ""} == {**FORMAT_1, "hf_meta_adapters": ""}


def test_a_manifest_of_format_1_is_read(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps(FORMAT_1))
    assert read_manifest(tmp_path) == FAMILY
    theirs = {**FORMAT_1, "share_adapter": False, "shared_adapter": True}
    (tmp_path / MANIFEST).write_text(json.dumps(theirs))
    family = read_manifest(tmp_path)
    assert (family.one_adapter_for_all, family.theta_is_adapter) == (False, True)


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than one block
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
