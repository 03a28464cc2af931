"""Families on the Hub that are merged, and what their merger says of them there."""

from __future__ import annotations

from hf_meta_adapters import LanguageAdapterModel, merge_families
from tests.adapted import adapted, outputs, same, stirred
from tests.hub_server import HubServer
from tests.tiny import tiny
from tests.training import make_tokenizer

load = LanguageAdapterModel.from_pretrained


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
