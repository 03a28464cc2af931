"""What of a text, a file and a folder is published."""

from __future__ import annotations

import getpass
import json
import socket
import zlib
from pathlib import Path

import pytest

from hf_meta_adapters.hub.places import without_places
from hf_meta_adapters.hub.public import additions, files_to_publish

HOMES, USERS = "/" + "home", "User" + "s"  # in parts: no text here may name a machine


@pytest.fixture(autouse=True)
def _somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", f"{HOMES}/anna lee")
    monkeypatch.setattr(getpass, "getuser", lambda: "anna")
    monkeypatch.setattr(socket, "gethostname", lambda: "sw")  # also a language


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/texts/te.txt", "te.txt"),
        ("/data", "data"),
        ("/data/texts/", "texts"),
        ("~/texts/te.txt", "te.txt"),
        ("file:" + "///data/texts/te.txt", "te.txt"),
        (rf"C:\{USERS}\anna\texts\te.txt", "te.txt"),
        ("D:/texts/te.txt", "te.txt"),
        (f"{HOMES}/ben", "~"),
        (f"/{USERS}/ben", "~"),
        ("/srv/anna", "~"),
        ("from /data/texts/a.txt and '/data/b.txt'", "from a.txt and 'b.txt'"),
        ("--file=/data/texts/a.txt --rate=3/4", "--file=a.txt --rate=3/4"),
        (f"{HOMES}/anna lee/texts/a.txt", "texts/a.txt"),
        ("/run/of/mine", "."),
        ("/run/of/mine/checkpoint-2", "checkpoint-2"),
        ("/run/of/mine/runs/Nov_sw", "runs/Nov_~"),
        ("/run/of/mines/x", "x"),
    ],
)
def test_a_place_is_cut(text: str, expected: str) -> None:
    assert without_places(text, Path("/run/of/mine")) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sw",
        "anna/family",
        "outputs/mine",
        "../data/sw.txt",
        "https://example.com/a/b",
        "hf://datasets/me/texts/a.txt",
        "and/or, 1/2/3, </s> and /",
        "token classification",
        "^model\\.layer\\.(0|1)",
        "a / b / c",
    ],
)
def test_any_other_text_stays(text: str) -> None:
    assert without_places(text, Path("/run/of/mine")) == text


def test_only_texts_are_changed_at_any_depth() -> None:
    value = {"sw": [1, 2.5, None, True, ("/a/b.txt", {"x": "/a/c.txt"})], "/a/d.txt": "sw"}
    expected = {"sw": [1, 2.5, None, True, ["b.txt", {"x": "c.txt"}]], "d.txt": "sw"}
    assert without_places(value) == expected


def test_settings_lose_places_and_nothing_else(tmp_path: Path) -> None:
    settings = {
        "name_or_path": "/data/base",
        "tokenizer_file": "/data/base/tokenizer.json",
        "inner": [{"_name_or_path": "~/base", "size": 3}],
        "base_model_name_or_path": "me/base",
        "chat_template": "{{ '/a/b' }}",
        "eos_token": "/a/b",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"vocab_file": "/a/b"}))
    (tmp_path / "broken_config.json").write_text("{")

    [broken, vocabulary, found] = additions(tmp_path, files_to_publish(tmp_path))
    assert json.loads(found.path_or_fileobj) == {
        "tokenizer_file": "tokenizer.json",
        "inner": [{"size": 3}],
        "base_model_name_or_path": "me/base",
        "chat_template": "{{ '/a/b' }}",
        "eos_token": "/a/b",
    }
    # a file that is published as it is keeps its bytes, and is not read into memory
    assert vocabulary.path_or_fileobj == str(tmp_path / "tokenizer.json")
    assert broken.path_or_fileobj == str(tmp_path / "broken_config.json")


def test_the_seal_is_of_what_is_published(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    state = {"best_model_checkpoint": str(folder), "global_step": 1}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    (folder / "optimizer.pt").write_bytes(b"state")
    files = {"trainer_state.json": [1, 2], "optimizer.pt": [5, zlib.crc32(b"state")]}
    (folder / "checkpoint.json").write_text(json.dumps({"format": 1, "files": files}))

    added = additions(folder, files_to_publish(folder), target="last-checkpoint", run=tmp_path)
    content = {one.path_in_repo.removeprefix("last-checkpoint/"): one for one in added}
    published = content["trainer_state.json"].path_or_fileobj
    assert json.loads(published) == {"best_model_checkpoint": "checkpoint-1", "global_step": 1}

    seal = json.loads(content["checkpoint.json"].path_or_fileobj)
    assert seal["files"] == {
        "trainer_state.json": [len(published), zlib.crc32(published)],
        "optimizer.pt": [5, zlib.crc32(b"state")],
    }


def test_logs_and_what_was_left_out_are_not_published(tmp_path: Path) -> None:
    for path in ("a.txt", "runs/x/events.out.tfevents.1.host", "_x/a", ".git/a", "sw/a.pt", "sw/b"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    assert files_to_publish(tmp_path, "_*", "*.pt") == ["a.txt", "sw/b"]
