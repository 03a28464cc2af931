"""Checkpoint folders: whole or absent, sealed, rotated, and refused where they are not what was
written.
"""

from __future__ import annotations

import json
import os

import pytest
from transformers.trainer_utils import get_last_checkpoint

from hf_meta_adapters.errors import CheckpointError
from hf_meta_adapters.training import _checkpoint_folders as folders
from hf_meta_adapters.training import _checkpoint_seal as seals

RUN = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def record(step, **changed):
    progress = {"examples_seen": {"train": {"sw": 2}}, "nonfinite_steps": 0, "overflow_steps": 0}
    whole = {"step": step, "model_only": False, "settings": {}, "optimizer": {}}
    return {**whole, "progress": progress, **changed}


def written(run_dir, step, text="weights"):
    """A checkpoint that is complete but for its place."""
    folder = run_dir / folders.UNFINISHED / f"checkpoint-{step}"
    (folder / "sw").mkdir(parents=True)
    (folder / "model.safetensors").write_text(text)
    (folder / "sw" / "adapter_model.safetensors").write_text(f"adapter {text}")
    for name in (*RUN, "language_adapters.json"):
        (folder / name).write_text(name)
    seals.seal(folder, record(step))
    return folder


def saved(run_dir, step, text="weights"):
    return folders.commit(written(run_dir, step, text), run_dir)


def test_a_checkpoint_is_in_its_place_only_when_it_is_whole(tmp_path):
    folder = written(tmp_path, 3)
    assert get_last_checkpoint(tmp_path) is None
    assert folders.checkpoints(tmp_path) == []
    assert folders.commit(folder, tmp_path) == tmp_path / "checkpoint-3"
    assert get_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-3")
    assert seals.read_seal(tmp_path / "checkpoint-3")["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_one_of_the_same_step_is_replaced(tmp_path):
    saved(tmp_path, 3, "old")
    place = saved(tmp_path, 3, "new")
    assert (place / "model.safetensors").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_one_whose_replacement_never_came_is_put_back(tmp_path):
    place = saved(tmp_path, 3, "old")
    written(tmp_path, 3, "new")
    os.rename(
        place, tmp_path / folders.UNFINISHED / "replaced-checkpoint-3"
    )  # where a process was killed
    folders.discard(tmp_path)
    assert (place / "model.safetensors").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_what_a_killed_save_left_is_deleted(tmp_path):
    saved(tmp_path, 3)
    written(tmp_path, 6)
    folders.discard(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (None, [1, 2, 10, 11]),
        (0, [1, 2, 10, 11]),
        (5, [1, 2, 10, 11]),
        (3, [2, 10, 11]),
        (2, [2, 11]),
        (1, [2, 11]),
    ],
)
def test_the_last_and_the_best_are_never_deleted(tmp_path, limit, kept):
    for age, step in enumerate((1, 2, 10, 11)):
        os.utime(saved(tmp_path, step), (1000 + age, 1000 + age))
    folders.rotate(tmp_path, limit, {tmp_path / "checkpoint-11", tmp_path / "checkpoint-2"})
    assert [folders._step(path) for path in folders.checkpoints(tmp_path)] == kept
    assert not (tmp_path / folders.UNFINISHED).exists()


def test_the_oldest_goes_first_whatever_its_step(tmp_path):
    """Those of a run that was in this folder before are older than the one just written."""
    for age, step in enumerate((100, 200, 5)):
        os.utime(saved(tmp_path, step), (1000 + age, 1000 + age))
    folders.rotate(tmp_path, 2, {tmp_path / "checkpoint-5"})
    assert [folders._step(path) for path in folders.checkpoints(tmp_path)] == [5, 200]


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def resealed(change):
    def damage(folder):
        content = json.loads((folder / seals.SEAL).read_text())
        content.pop("checksum")  # as in those of earlier versions
        change(content)
        (folder / seals.SEAL).write_text(json.dumps(content))

    return damage


DAMAGE = {
    "missing": (lambda f: (f / "model.safetensors").unlink(), "no `model.safetensors`"),
    "missing folder": (lambda f: (f / "sw").rename(f / "te"), "no `sw/adapter_model.safetensors`"),
    "truncated": (
        lambda f: os.truncate(f / "model.safetensors", 3),
        "`model.safetensors` with 3 bytes instead of 7",
    ),
    "altered": (
        lambda f: flipped(f / "sw" / "adapter_model.safetensors"),
        "other bytes than were written",
    ),
    "no seal": (lambda f: (f / seals.SEAL).unlink(), "no `checkpoint.json`, which is written last"),
    "no JSON": (lambda f: (f / seals.SEAL).write_text("{"), "`checkpoint.json` that is not JSON"),
    "no object": (
        lambda f: (f / seals.SEAL).write_text("[]"),
        r"of format \[\], where this version reads 1",
    ),
    "later format": (
        resealed(lambda c: c.update(format=2)),
        "of format 2, where this version reads 1",
    ),
    "no list": (resealed(lambda c: c.pop("files")), "without a list of the files"),
    "files elsewhere": (
        resealed(lambda c: c["files"].update({"../x": [1, 2]})),
        "without a list of the files",
    ),
    "a name that no file has": (
        resealed(lambda c: c["files"].update({"a\0b": [1, 2]})),
        "without a list of the files",
    ),
    "no size": (
        resealed(lambda c: c["files"].update({"model.safetensors": "7"})),
        "without a list of the files",
    ),
    "lists in lists": (
        lambda f: (f / seals.SEAL).write_text("[" * 100_000),
        "`checkpoint.json` that is not JSON",
    ),
    "a step that is no number": (resealed(lambda c: c.update(step="3")), "whose `step` is '3'"),
    "no settings": (resealed(lambda c: c.pop("settings")), "whose `settings` is None"),
    "settings that are a list": (resealed(lambda c: c.update(settings=[])), r"is \[\]"),
    "no word on its kind": (resealed(lambda c: c.update(model_only=0)), "`model_only` is 0"),
    "counts that are none": (
        resealed(lambda c: c["progress"]["examples_seen"]["train"].update(sw=None)),
        "without the counts of a run",
    ),
    "counts of no role": (
        resealed(lambda c: c["progress"].update(examples_seen=[1])),
        "without the counts of a run",
    ),
    **{
        f"no {name}, unsealed": (
            resealed(lambda c, name=name: c["files"].pop(name)),
            f"nothing of .*{name.split('.')[0].split('_state')[0]}",
        )
        for name in (*RUN, "language_adapters.json")
    },
    "no weights": (
        resealed(
            lambda c: [c["files"].pop(n) for n in [*c["files"]] if n.endswith(".safetensors")]
        ),
        "nothing of weights",
    ),
    "a file that came later": (
        lambda f: (f / "scaler.pt").write_text(""),
        "`scaler.pt`, which was not written with it",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_taken(tmp_path, what):
    before, last = saved(tmp_path, 3), saved(tmp_path, 10)
    damage, said = DAMAGE[what]
    damage(last)
    with pytest.raises(
        CheckpointError,
        match=f"must be exactly what was written. Found in {last} .*{said}.*Resume from the",
    ) as error:
        seals.read_seal(last)
    assert "\n" not in str(error.value)
    found, wrong = folders.newest(tmp_path)
    assert found == before
    assert wrong == [str(error.value)]
    damage(before)
    with pytest.raises(
        CheckpointError,
        match=r"can only be resumed from a checkpoint\. .*`resume_from_checkpoint=None`",
    ):
        folders.newest(tmp_path)


@pytest.mark.parametrize("name", [*RUN, "language_adapters.json"])
def test_what_is_not_whole_is_not_sealed(tmp_path, name):
    folder = written(tmp_path, 3)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match="nothing of"):
        seals.seal(folder, record(3))
    if name in RUN[:3]:  # what `save_only_model` leaves out
        seals.seal(folder, record(3, model_only=True))


def test_any_bit_of_a_seal_that_flips_is_noticed(tmp_path):
    """Damage of the counts themselves, which no other file contradicts."""
    folder = saved(tmp_path, 3)
    whole = bytearray((folder / seals.SEAL).read_bytes())
    of_checksum = range(whole.index(b'"checksum"'), whole.index(b'"checksum"') + 10)
    for place in range(len(whole)):
        if place in of_checksum or chr(whole[place]).isspace():
            continue  # the name that tells new seals from old ones; and space means nothing
        flipped = bytearray(whole)
        flipped[place] ^= 1
        (folder / seals.SEAL).write_bytes(flipped)
        with pytest.raises(CheckpointError):
            seals.read_seal(folder)


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(CheckpointError, match=f"Found none in {tmp_path}"):
        folders.newest(tmp_path)
    with pytest.raises(CheckpointError, match="Found no folder"):
        seals.read_seal(tmp_path / "checkpoint-7")
