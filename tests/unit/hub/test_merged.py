"""Families on the Hub that are merged, and what their merger says of them there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_meta_adapters import LanguageAdapterModel, merge_families
from hf_meta_adapters.hub.manifest import MANIFEST
from tests.adapted import adapted, outputs, same, stirred
from tests.hub_server import HubServer
from tests.tiny import tiny
from tests.training import make_tokenizer

load = LanguageAdapterModel.from_pretrained
ODD = [
    "all",
    {"families": 3},
    {"families": ["me/en", {}, {"name": ["a"], "languages": 3, "weight": "much"}], "density": []},
]


def test_published_families(hub: HubServer) -> None:
    first = stirred(adapted("bert", "ia3", ["en", "sw"]))
    second = stirred(adapted("bert", "ia3", ["sw", "te"]))
    first.push_to_hub("anna/english", processing_class=make_tokenizer())
    second.push_to_hub("anna/telugu", processing_class=make_tokenizer())
    merged = merge_families(["anna/english", "anna/telugu"])
    merged.push_to_hub("anna/both")
    loaded = load("anna/both")
    commits = [hub.repositories[name].refs["main"] for name in ("anna/english", "anna/telugu")]
    assert [entry["revision"] for entry in loaded.merged_from["families"]] == commits
    batch = tiny("bert").batch()
    assert same(outputs(loaded, batch, language="sw"), outputs(merged, batch, language="sw"))


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_a_record_that_somebody_has_changed_does_not_keep_a_model_from_being_saved(
    odd: object, tmp_path: Path
) -> None:
    model = adapted("bert", None, ["en"])
    model.merged_from = {"method": "linear", "families": []}
    model.save_pretrained(tmp_path / "a")
    manifest = tmp_path / "a" / MANIFEST
    content = json.loads(manifest.read_text())
    content["details"]["merged_from"] = odd
    manifest.write_text(json.dumps(content))

    load(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "README.md").is_file()
