"""Saving over a model: whoever loads gets the model before or the one after, and so does whoever
loads after the saving process was killed, at any moment.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_meta_adapters import LanguageAdapterModel
from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub import _folder_lock, _staging, loading, steady
from hf_meta_adapters.hub.manifest import MANIFEST
from hf_meta_adapters.modeling import _loading
from tests.adapted import adapted, same, stirred
from tests.tiny import tiny

load = LanguageAdapterModel.from_pretrained
BEFORE, AFTER = "before", "after"
LIMIT = 200  # seconds

_PROCESSES = multiprocessing.get_context("forkserver")


def family(which: str) -> LanguageAdapterModel:
    """One of two models, which differ in every number and in the files they consist of."""
    torch.manual_seed([BEFORE, AFTER].index(which))
    return stirred(adapted("bert", "lora", ["en", "sw", "te"] if which == BEFORE else ["en", "sw"]))


def save(folder: Path, which: str) -> None:
    family(which).save_pretrained(folder, max_shard_size="10KB" if which == BEFORE else None)


def numbers(model: LanguageAdapterModel) -> dict[str, Tensor]:
    """Every tensor of a model."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.partial"))


def without_checksums(folder: Path) -> None:
    """Make the manifest one of an earlier version."""
    content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    del content["sha256"]
    (folder / MANIFEST).write_text(json.dumps(content), encoding="utf-8")


def interrupted(folder: Path, moved: int) -> None:
    """Bring a folder into the state in which a save is killed that has moved so many files."""
    staging = folder / f"{MANIFEST}.0123abcd.partial"
    save(staging, AFTER)
    for name in sorted(files(staging).keys() - {MANIFEST})[:moved]:
        os.replace(staging / name, folder / name)


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[str, Tensor]]:
    return {which: numbers(family(which)) for which in (BEFORE, AFTER)}


def which_one(model: LanguageAdapterModel, expected: dict[str, dict[str, Tensor]]) -> str:
    """Which of the two families a model is, bit by bit; an error if it is a mixture."""
    found = numbers(model)
    for which, theirs in expected.items():
        if theirs.keys() == found.keys() and same(list(found.values()), list(theirs.values())):
            return which
    raise AssertionError(f"neither of the two, but a mixture, with {model.languages}")


def process(work: Callable[..., None], *given: Any) -> Any:
    """A process of its own that does some work."""
    _PROCESSES.set_forkserver_preload(["tests.unit.hub.test_saving_over"])
    started = _PROCESSES.Process(target=work, args=given, daemon=True)
    started.start()
    return started


def save_alternately(folder: Path, pause: float) -> None:
    models = [family(which) for which in (AFTER, BEFORE)]
    while True:
        for model, size in zip(models, (None, "10KB"), strict=True):
            model.save_pretrained(folder, max_shard_size=size)
            time.sleep(pause)


def save_and_die(folder: Path, model: LanguageAdapterModel, moment: int) -> None:
    """Save, and be killed before the change number `moment` to the folder."""
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            return
        if isinstance(arguments[0], int) or not os.fsdecode(arguments[0]).startswith(str(folder)):
            return

        seen += 1
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    model.save_pretrained(folder)


def save_and_die_at_every_moment(folder: Path, report: Path) -> None:
    """Note what is loaded after a save was killed before the first change, the second, …"""
    old, new = family(BEFORE), family(AFTER)
    expected = {BEFORE: numbers(old), AFTER: numbers(new)}
    found: list[str] = []

    old.save_pretrained(report.with_name("old"), max_shard_size="10KB")
    while True:
        # Every save finds the same folder, so that the moments are the same.
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(report.with_name("old"), folder)

        child = os.fork()
        if child == 0:
            code = 1
            try:
                save_and_die(folder, new, len(found) + 1)
                code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            break
        assert code == -signal.SIGKILL
        found.append(which_one(load(folder), expected))

    report.write_text(json.dumps([*found, which_one(load(folder), expected)]))


@pytest.mark.skipif(sys.platform == "win32", reason="files in use cannot be replaced there")
def test_readers_get_one_save_while_another_process_saves(expected: Any, tmp_path: Path) -> None:
    save(tmp_path, BEFORE)
    found, start = [], time.monotonic()

    writer = process(save_alternately, tmp_path, 0.0)
    try:
        while len(found) < 20 or len({*found}) < 2:
            assert time.monotonic() - start < LIMIT
            found.append(which_one(load(tmp_path), expected))
    finally:
        writer.kill()
        writer.join()
    assert writer.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("lockable", [True, False])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_save_in_the_midst_of_a_load_makes_it_begin_again(
    lockable: bool,
    early: bool,
    in_place: bool,
    expected: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(tmp_path, BEFORE)
    if early:
        without_checksums(tmp_path)
    if not lockable:
        monkeypatch.setattr(_folder_lock, "_opened", lambda folder: None)
    monkeypatch.setattr(_staging, "PATIENCE", 0.1)
    place, saves = loading if in_place else _loading, []

    def interrupted(*given: Any) -> Any:
        base = original(*given)
        if not saves:
            saves.append(save(tmp_path, AFTER))
        return base

    original = place.load_base
    monkeypatch.setattr(place, "load_base", interrupted)
    model = family(AFTER)
    if in_place:
        stirred(model).load_weights(tmp_path)
    else:
        model = load(tmp_path)
    assert which_one(model, expected) == AFTER


def test_the_folder_may_be_passed_by_its_name(expected: Any, tmp_path: Path) -> None:
    save(tmp_path, AFTER)
    model = load(repo_or_path=tmp_path)
    stirred(model).load_weights(path=tmp_path)
    assert which_one(model, expected) == AFTER
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'path'"):
        model.load_weights()


def test_a_folder_that_never_stands_still_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, AFTER)
    monkeypatch.setattr(steady, "PATIENCE", 0.01)
    attempts = []

    def touched(folder: Path) -> None:
        attempts.append(os.utime(folder / "config.json", ns=(0, time.time_ns())))

    # However long one attempt takes, it is not the only one.
    with pytest.raises(HubError, match=r"as it is while it is loaded. Found .* again and again"):
        steady.read_one_save(tmp_path, lambda: touched(tmp_path))
    assert len(attempts) == 3


@pytest.mark.parametrize("lockable", [True, False])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("moved", [0, 1, 5])
def test_an_interrupted_save_is_finished_by_the_next_reader(
    moved: int,
    early: bool,
    lockable: bool,
    expected: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(tmp_path, BEFORE)
    interrupted(tmp_path, moved)
    if early:
        without_checksums(tmp_path)
    if not lockable:
        monkeypatch.setattr(_folder_lock, "_opened", lambda folder: None)
    monkeypatch.setattr(steady, "PATIENCE", 0.3)

    assert which_one(load(tmp_path), expected) == AFTER
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "te").exists()
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]


def test_an_interrupted_save_that_cannot_be_finished_is_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, BEFORE)
    interrupted(tmp_path, 3)

    def refused(*_: object) -> None:
        raise PermissionError("read-only")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refused)
        with pytest.raises(HubError, match=r"interrupted.* read-only\. Load the model once where"):
            load(tmp_path)

    assert load(tmp_path).languages == ("en", "sw")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_changes_nothing(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, BEFORE)
    before, model = files(tmp_path), family(AFTER)

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(_staging, "write_manifest", full)
    with pytest.raises(type(error)):
        model.save_pretrained(tmp_path)
    assert files(tmp_path) == before
    assert not any(path.name.endswith(".partial") for path in tmp_path.iterdir())


def test_files_of_the_old_model_go_and_those_of_others_stay(expected: Any, tmp_path: Path) -> None:
    save(tmp_path, BEFORE)
    theirs = {
        "notes.txt": b"of the user",
        "model_best.safetensors": b"of the user",
        "te/notes.txt": b"of the user",
        "checkpoint-7/model.safetensors": b"of a run",
        ".git/config": b"of git",
    }
    for name, content in theirs.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)

    save(tmp_path, AFTER)
    assert which_one(load(tmp_path), expected) == AFTER
    left = files(tmp_path)
    assert {name: left[name] for name in theirs} == theirs

    save(tmp_path / "fresh", AFTER)
    assert left.keys() - theirs.keys() == files(tmp_path / "fresh").keys()


def test_a_plain_checkpoint_in_shards_is_replaced(expected: Any, tmp_path: Path) -> None:
    """Their index would lead transformers to the old shards; the old single file likewise."""
    tiny("bert").make().save_pretrained(tmp_path / "one", max_shard_size="10KB")
    save(tmp_path / "one", AFTER)
    assert which_one(load(tmp_path / "one"), expected) == AFTER
    assert [path.name for path in (tmp_path / "one").glob("model*")] == ["model.safetensors"]

    tiny("bert").make().save_pretrained(tmp_path / "two")
    save(tmp_path / "two", BEFORE)
    assert which_one(load(tmp_path / "two"), expected) == BEFORE
    assert not (tmp_path / "two" / "model.safetensors").exists()


def test_what_a_living_process_is_saving_is_left_to_it(tmp_path: Path) -> None:
    save(tmp_path, AFTER)
    dead, alive = (tmp_path / f"{MANIFEST}.{name}.partial" for name in ("00", "01"))
    for path in (dead, alive):
        path.mkdir()

    with _folder_lock.locked(alive, exclusive=True) as lock:
        assert lock == "held"
        save(tmp_path, AFTER)
    assert leftovers(tmp_path) == [alive.name]

    # What an earlier version left behind.
    (tmp_path / f"{MANIFEST}.partial").write_text("{")
    save(tmp_path, AFTER)
    assert leftovers(tmp_path) == []


def test_saving_by_two_processes_without_locks_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_folder_lock, "_opened", lambda folder: None)
    first, second = family(BEFORE), family(AFTER)
    write = first.backend.save

    def meanwhile(*given: Any) -> None:
        second.save_pretrained(tmp_path)
        write(*given)

    monkeypatch.setattr(first.backend, "save", meanwhile)
    with pytest.raises(HubError, match=r"One process at a time.*Found that another one has saved"):
        first.save_pretrained(tmp_path)
    assert load(tmp_path).languages == second.languages


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no process can be killed so")
def test_a_save_that_is_killed_leaves_the_old_model_or_the_new_one(tmp_path: Path) -> None:
    sweep = process(save_and_die_at_every_moment, tmp_path / "model", tmp_path / "report")
    sweep.join(LIMIT)
    assert sweep.exitcode == 0

    found = json.loads((tmp_path / "report").read_text())
    kept = found.index(AFTER)
    assert found == [BEFORE] * kept + [AFTER] * (len(found) - kept)
    assert kept > 10
    assert len(found) - kept > 10
    assert leftovers(tmp_path) == []
