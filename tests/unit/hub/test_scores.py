"""Scores join a family that is saved or published; everything else of it stays."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import ModelCard

from hf_meta_adapters import LanguageAdapterModel
from hf_meta_adapters.errors import HubError
from hf_meta_adapters.evaluation import LanguageScores
from hf_meta_adapters.hub.client import Access
from hf_meta_adapters.hub.manifest import MANIFEST, read_manifest
from hf_meta_adapters.hub.record import with_scores
from hf_meta_adapters.hub.scores import publish_scores, record_scores
from tests.adapted import adapted, outputs, same, stirred
from tests.hub_server import HubServer
from tests.tiny import tiny

FAMILY = "anna/family"


def table(task, **values):
    scores = {language: {"acc": value} for language, value in values.items()}
    return LanguageScores(task, "acc", True, scores, dict.fromkeys(values, 4)).to_dict()


def saved(folder, **details):
    model = stirred(adapted("llama")).eval()
    model.save_pretrained(folder, **details)
    return model


def test_a_folder_keeps_all_but_the_scores(tmp_path):
    training = {"preset": "meta"}
    model = saved(tmp_path, training=training, scores=table("ner", en=0.5, sw=0.25))
    card = tmp_path / "README.md"
    card.write_text(card.read_text() + "\nOur own words.\n")
    measured = read_manifest(tmp_path)

    record_scores(tmp_path, [table("xcopa", en=0.75, sw=0.625)], measured)
    record_scores(tmp_path, [table("xcopa", sw=0.875)], measured)

    details = read_manifest(tmp_path).details
    assert details["training"] == training
    found = [(one["task"], one["scores"]) for one in details["scores"]]
    assert found == [
        ("ner", {"en": {"acc": 0.5}, "sw": {"acc": 0.25}}),
        ("xcopa", {"en": {"acc": 0.75}}),
        ("xcopa", {"sw": {"acc": 0.875}}),
    ]
    assert "mean" not in details["scores"][1]

    text = card.read_text()
    assert text.count("Our own words.") == 1
    assert "0.625" not in text
    results = ModelCard(text).data.eval_results
    shown = {(one.task_type, one.dataset_config): one.metric_value for one in results}
    assert shown[("xcopa", "sw")] == 0.875
    assert shown[("ner", "sw")] == 0.25

    loaded = LanguageAdapterModel.from_pretrained(tmp_path)
    batch = tiny("llama").batch()
    assert same(outputs(loaded, batch, language="sw"), outputs(model, batch, language="sw"))


def test_other_metrics_are_other_scores():
    other = {**table("ner", en=0.5), "metric": "f1"}
    details = {"scores": [table("ner", en=0.25), "somebody's own note"]}
    found = with_scores(details, [other])["scores"]
    assert found == [table("ner", en=0.25), "somebody's own note", other]
    assert with_scores({}, [other]) == {"scores": [other]}


def test_weights_that_were_saved_since_are_not_given_the_scores(tmp_path):
    saved(tmp_path)
    measured = read_manifest(tmp_path)
    stirred(adapted("llama"), 0.5).save_pretrained(tmp_path)
    before = (tmp_path / MANIFEST).read_text()
    with pytest.raises(HubError, match="saved again since"):
        record_scores(tmp_path, [table("ner", en=0.5)], measured)
    assert (tmp_path / MANIFEST).read_text() == before


def test_nothing_is_written_through_a_link(tmp_path):
    saved(tmp_path / "family")
    card, outside = tmp_path / "family" / "README.md", tmp_path / "outside"
    card.unlink()
    outside.write_text("mine")
    card.symlink_to(outside)
    with pytest.raises(HubError, match=r"through links.*README"):
        record_scores(
            tmp_path / "family", [table("ner", en=0.5)], read_manifest(tmp_path / "family")
        )
    assert outside.read_text() == "mine"


def test_a_repository_gets_one_commit_of_two_files(hub: HubServer):
    model = stirred(adapted("llama")).eval()
    model.push_to_hub(FAMILY, training={"preset": "meta"})
    repository = hub.repositories[FAMILY]
    before = repository.files()
    measured = json.loads(before[MANIFEST])

    family = read_remote_family()
    publish_scores(FAMILY, [table("xcopa", en=0.75)], family, Access())
    after = repository.files()
    assert len(repository.commits) == 3
    assert {path for path in after if after[path] != before.get(path)} == {MANIFEST, "README.md"}

    manifest = json.loads(after[MANIFEST])
    assert manifest["details"]["scores"] == [table("xcopa", en=0.75)]
    del manifest["details"]["scores"]
    assert manifest == measured
    assert f'from_pretrained("{FAMILY}"' in after["README.md"].decode()
    assert LanguageAdapterModel.from_pretrained(FAMILY).languages == ("en", "sw")

    stirred(adapted("llama"), 0.5).push_to_hub(FAMILY)
    with pytest.raises(HubError, match="saved again since"):
        publish_scores(FAMILY, [table("xcopa", en=0.75)], family, Access())


def read_remote_family():
    from hf_meta_adapters.hub.download import fetch_family

    return fetch_family(FAMILY, None, Access())[1]
