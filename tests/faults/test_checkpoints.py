"""Checkpoints that are damaged, foreign or cannot be written: one clear error, and the one before
is as it was.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import warnings

import pytest
import safetensors.torch
import torch
from peft import LoraConfig

from hf_meta_adapters import BottleneckConfig
from hf_meta_adapters.errors import CheckpointError, HubError, MetaAdapterError
from hf_meta_adapters.training import _checkpoint_folders as folders
from hf_meta_adapters.training import _checkpoint_seal as seals
from tests.training import LANGUAGES, make_model, make_trainer, snapshot, texts

from .conftest import SAVING

ADAPTER = "da/adapter_model.safetensors"


def clear(error):
    """Whether a message is one paragraph that says the rule, what was found, and what to write."""
    return (
        re.fullmatch(r"[^\n]*(must|can only)[^\n]*Found[^\n]*\. [A-Z][^\n]*[.?]", str(error))
        is not None
    )


def whole(folder):
    return seals.read_seal(folder)["files"]


def truncated(name):
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def without(name):
    def remove(folder):
        place = folder / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()

    return remove


def flipped(name):
    def flip(folder):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 4
        (folder / name).write_bytes(data)

    return flip


def foreign_state(folder):
    state = json.loads((folder / "trainer_state.json").read_text())
    (folder / "trainer_state.json").write_text(json.dumps({**state, "global_step": 3000}))


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def pickled(folder):
    tensors = safetensors.torch.load_file(folder / ADAPTER)
    torch.save(tensors, folder / "da" / "adapter_model.bin")
    (folder / ADAPTER).unlink()


def resealed(change):
    """As somebody would leave a checkpoint who changes it on purpose."""

    def damage(folder):
        content = seals.read_seal(folder)
        change(folder)
        (folder / seals.SEAL).unlink()
        seals.seal(folder, {name: value for name, value in content.items() if name != "files"})

    return damage


def other_counts(folder):
    content = seals.read_seal(folder)
    content["progress"]["examples_seen"]["train"]["da"] += 1
    seals.seal(folder, {k: v for k, v in content.items() if k not in ("format", "files")})


def not_a_number(folder):
    tensors = safetensors.torch.load_file(folder / ADAPTER)
    safetensors.torch.save_file(
        {name: one * float("nan") for name, one in tensors.items()}, folder / ADAPTER
    )


def manifest(**changed):
    def change(folder):
        place = folder / "language_adapters.json"
        place.write_text(json.dumps({**json.loads(place.read_text()), **changed}))

    return change


def torn(name):
    return truncated(name)


def nobody(name):
    return lambda folder: torch.save({"nobody": 1}, folder / name)


def a_list(name):
    return lambda folder: torch.save([1, 2], folder / name)


def pickle_of_code(name):
    return lambda folder: torch.save(print, folder / name)


def edited(change):
    """A file of torch with another content."""

    def of(name):
        def edit(folder):
            content = torch.load(folder / name, weights_only=False)
            change(content)
            torch.save(content, folder / name)

        return edit

    return of


def nested(name):
    return lambda folder: (folder / name).write_text("[" * 100_000)


def another_step(name):
    return foreign_state


def moment(entry):
    """The first moment of the second parameter is another one."""

    def change(content):
        content["state"][1]["exp_avg"] = entry(content["state"][1]["exp_avg"])

    return edited(change)


NO_STATE = {
    "half a file": (torn, ""),
    "something else": (nobody, ""),
    "a list": (a_list, ""),
    "a function": (pickle_of_code, "[Ww]eights.only"),
}
FOREIGN = {
    "optimizer.pt": {
        **NO_STATE,
        "a moment of more rows": (moment(lambda m: torch.cat([m, m])), "`exp_avg` of shape"),
        "a moment of another shape": (moment(lambda m: m[..., None]), "`exp_avg` of shape"),
        "a moment of no rows": (moment(lambda m: m[:0]), r"of shape \(0,"),
        "a moment of whole numbers": (moment(lambda m: m.long()), r"`exp_avg` of torch\.int64"),
        "a moment of half precision": (moment(lambda m: m.half()), r"`exp_avg` of torch\.float16"),
        "a moment that is a word": (moment(lambda m: "high"), "no numbers in `exp_avg`"),
        "no moments": (edited(lambda c: c["state"].clear()), "states of 0 parameters instead of"),
        "moments of one more": (
            edited(lambda c: c["state"].update({999: c["state"].pop(0)})),
            "nothing under 999",
        ),
        "a group of fewer": (edited(lambda c: c["param_groups"][0]["params"].pop()), "groups of"),
        "no groups": (edited(lambda c: c["param_groups"].clear()), r"groups of \[\] parameters"),
    },
    "scheduler.pt": {
        **{what: change for what, change in NO_STATE.items() if what != "something else"},
        "a step that is a word": (edited(lambda c: c.update(last_epoch="4")), "`last_epoch` '4'"),
        "rates of more groups": (edited(lambda c: c["base_lrs"].append(0.1)), "`base_lrs`"),
        "a rate that is NaN": (
            edited(lambda c: c.update(_last_lr=[float("nan")] * len(c["_last_lr"]))),
            "`_last_lr`",
        ),
    },
    "rng_state.pth": {
        **NO_STATE,
        "half a state of torch": (edited(lambda c: c.update(cpu=c["cpu"][:99])), ""),
        "half a state of Python": (
            edited(lambda c: c.update(python=(3, c["python"][1][:9], None))),
            "",
        ),
        "no state of numpy": (edited(lambda c: c.pop("numpy")), "nothing under 'numpy'"),
    },
    "trainer_state.json": {
        "another step": (another_step, "step 3000 instead of 4"),
        "lists in lists": (nested, ""),
    },
}


DAMAGED = {
    "truncated weights": (
        truncated("model.safetensors"),
        r"`model.safetensors` with \d+ bytes instead of",
    ),
    "truncated adapter": (truncated(ADAPTER), rf"`{ADAPTER}` with \d+ bytes instead of"),
    "truncated optimizer": (
        truncated("optimizer.pt"),
        r"`optimizer.pt` with \d+ bytes instead of",
    ),
    "truncated schedule": (truncated("scheduler.pt"), r"`scheduler.pt` with \d+ bytes instead of"),
    "truncated random numbers": (truncated("rng_state.pth"), r"`rng_state.pth` with \d+ bytes"),
    "truncated state": (truncated("trainer_state.json"), r"`trainer_state.json` with \d+ bytes"),
    "foreign state": (foreign_state, "`trainer_state.json` with"),
    "corrupted weights": (flipped("model.safetensors"), "`model.safetensors` with other bytes"),
    "corrupted adapter": (flipped(ADAPTER), f"`{ADAPTER}` with other bytes"),
    "no folder of a language": (without("da"), "no `da/"),
    "no optimizer": (without("optimizer.pt"), "no `optimizer.pt`"),
    "no manifest of languages": (without("language_adapters.json"), "no `language_adapters.json`"),
    "not sealed": (without(seals.SEAL), "no `checkpoint.json`, which is written last"),
    "truncated seal": (truncated(seals.SEAL), "that is not JSON"),
    "an empty folder": (empty, "no `checkpoint.json`"),
    "a pickle in place of an adapter": (pickled, f"no `{ADAPTER}`"),
    "a pickle, sealed": (resealed(pickled), "Found `adapter_model.bin` in .*, a pickle"),
    "weights that are NaN": (
        resealed(not_a_number),
        "must be finite before training. Found NaN .*checkpoint-4",
    ),
    "counts of another step": (other_counts, "step 4: `examples_seen` was .*'da': 9.* and is .*8"),
    "languages that leave the folder": (
        resealed(manifest(languages=["../evil", "da", "te"])),
        "unsafe languages",
    ),
    "another base class": (
        resealed(manifest(base_class="BertModel")),
        "must be of this very model",
    ),
    "another format": (resealed(manifest(format=9)), "format 9, where this version reads 1"),
    "no state of a schedule": (
        resealed(nobody("scheduler.pt")),
        "must hold the state of this optimizer and sch",
    ),
    **{
        f"{what} in {name}": (
            resealed(change(name)),
            rf"must hold the state of the run.*checkpoint-4 another `{re.escape(name)}`: .*{said}",
        )
        for name, several in FOREIGN.items()
        for what, (change, said) in several.items()
    },
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_checkpoint_is_refused(run_dir, what):
    damage, said = DAMAGED[what]
    before = whole(run_dir / "checkpoint-2")
    damage(run_dir / "checkpoint-4")
    trainer = make_trainer(run_dir, make_model(seed=3), **SAVING)
    with pytest.raises(HubError, match=said) as error:
        trainer.train(resume_from_checkpoint=str(run_dir / "checkpoint-4"))
    assert clear(error.value), error.value
    assert whole(run_dir / "checkpoint-2") == before


@pytest.mark.parametrize("name", FOREIGN)
def test_before_files_are_known_to_fit_nothing_is_touched(run_dir, name):
    resealed(nested(name))(run_dir / "checkpoint-4")
    trainer = make_trainer(run_dir, make_model(seed=3), **SAVING)
    before, random = snapshot(trainer.model), torch.get_rng_state()
    with pytest.raises(CheckpointError, match="must hold the state of the run"):
        trainer.train(resume_from_checkpoint=str(run_dir / "checkpoint-4"))
    assert all(torch.equal(one, before[key]) for key, one in snapshot(trainer.model).items())
    assert torch.equal(random, torch.get_rng_state())
    assert trainer.optimizer is None


@pytest.mark.parametrize(
    "optim", ["adafactor", "sgd", "adagrad", "rmsprop", "adamw_torch", "adamw_torch_fused"]
)
def test_the_states_of_other_optimizers_fit(tmp_path, optim):
    """Their entries have other names and shapes."""
    given = {**SAVING, "optim": optim, "learning_rate": 1e-3}
    whole_run = make_trainer(tmp_path, make_model(), **given)
    whole_run.train()
    resumed = make_trainer(tmp_path, make_model(seed=1), **given)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert all(
        torch.equal(one, snapshot(resumed.model)[name])
        for name, one in snapshot(whole_run.model).items()
    )


@pytest.mark.parametrize("what", ["truncated optimizer", "not sealed"])
def test_the_newest_whole_one_is_taken_in_its_place(run_dir, what):
    expected = make_trainer(run_dir, make_model(seed=1), **SAVING)
    expected.train(resume_from_checkpoint=str(run_dir / "checkpoint-4"))
    DAMAGED[what][0](run_dir / "checkpoint-4")
    trainer = make_trainer(run_dir, make_model(seed=2), **SAVING)
    with pytest.warns(
        UserWarning,
        match=r"resumes from .*checkpoint-2, the newest complete .*Found in .*checkpoint-4",
    ):
        trainer.train(resume_from_checkpoint=True)
    assert len(trainer.seen) == 2
    assert all(
        torch.equal(one, snapshot(trainer.model)[name])
        for name, one in snapshot(expected.model).items()
    )
    assert whole(run_dir / "checkpoint-4")  # written anew


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1), None


OTHER = {
    "other languages": (
        {"languages": ["te", "da", "sw"]},
        {},
        "`languages` was .*'zh-Hant'.* and is .*'sw'",
    ),
    "fewer languages": (
        {"languages": ["te", "da"]},
        {},
        r"`languages` was .* and is \['te', 'da'\]",
    ),
    "another architecture": (
        {"name": "bert"},
        {},
        "base_class='XLMRobertaForMaskedLM'.*'BertForMaskedLM'",
    ),
    "another width of adapters": (
        {"config": BottleneckConfig(bottleneck_size=5)},
        {},
        "`adapter.bottleneck_size` was 3 and is 5",
    ),
    "another kind of adapters": (
        {"config": LoraConfig(r=2, target_modules=["query"])},
        {},
        "must fit the model|must",
    ),
    "no adapters": ({"config": None}, {}, "backend='peft' where the model has 'none'|`"),
    "a shared adapter": ({"share_adapter": True}, {}, "`rows of the data`|share_adapter"),
    "another optimizer": ({}, {"optimizers": sgd}, "`optimizer` was 'AdamW' and is 'SGD'"),
    "another batch size": (
        {},
        {"per_device_train_batch_size": 1},
        "`rows per language and step` was .*2.* and is .*1",
    ),
    "another meta batch size": (
        {},
        {"meta_batch_size": 4},
        "`rows per language and step` was .*'meta': 2.*'meta': 4",
    ),
    "accumulation": ({}, {"gradient_accumulation_steps": 2}, "`rows per language and step`"),
    "another seed": ({}, {"seed": 5}, "`seed` was 42 and is 5"),
    "fewer languages in a step": (
        {},
        {"languages_per_step": 1},
        "`languages_per_step` was None and is 1",
    ),
    "more data": (
        {},
        {"train_dataset": texts(1, count=9)},
        "`rows of the data` was .*8.* and is .*9",
    ),
}


@pytest.mark.parametrize("what", OTHER)
def test_a_checkpoint_of_another_run_is_refused(run_dir, what):
    options, given, said = OTHER[what]
    model = make_model(**{"languages": LANGUAGES, "seed": 3, **options})
    given = {name: value(model) if callable(value) else value for name, value in given.items()}
    trainer = make_trainer(run_dir, model, **{**SAVING, **given})
    with pytest.raises(HubError, match=said) as error:
        trainer.train(resume_from_checkpoint=True)
    assert clear(error.value), error.value
    assert len(whole(run_dir / "checkpoint-2")) == len(whole(run_dir / "checkpoint-4"))


def test_weights_alone_are_no_run(tmp_path):
    make_trainer(tmp_path, make_model(), save_only_model=True, **SAVING).train()
    with pytest.raises(
        CheckpointError, match=r"its optimizer\. Found in .*checkpoint-4 .*`save_only_model=True`"
    ):
        make_trainer(tmp_path, make_model(), **SAVING).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("where", [True, "checkpoint-7"])
def test_there_must_be_a_checkpoint(tmp_path, where):
    trainer = make_trainer(tmp_path, make_model(), **SAVING)
    with pytest.raises(
        CheckpointError, match=r"can only be resumed|must be the folder of a checkpoint"
    ) as error:
        trainer.train(resume_from_checkpoint=where if where is True else str(tmp_path / where))
    assert clear(error.value)


def no_room(name):
    """A disk on which there is no more room in the middle of a file."""

    def patch(monkeypatch):
        def write(content, path, *_, **__):
            with open(path, "wb") as file:
                file.write(b"half of it")
            raise OSError(28, "No space left on device", str(path))

        monkeypatch.setattr(name, write)

    return patch


FULL = {
    "in the adapters": no_room("hf_meta_adapters.backends.peft._files.save_file"),
    "in the optimizer": no_room("torch.save"),
    "in the seal": no_room("hf_meta_adapters.training._checkpoint_writer.seal"),
}


@pytest.mark.parametrize("where", FULL)
def test_a_full_disk_stops_the_run_and_loses_nothing(run_dir, where, monkeypatch):
    before = whole(run_dir / "checkpoint-4")
    trainer = make_trainer(run_dir, make_model(), **{**SAVING, "max_steps": 6})
    if where == "in the seal":
        monkeypatch.setattr("hf_meta_adapters.training._checkpoint_writer.seal", _full)
    else:
        FULL[where](monkeypatch)
    with pytest.raises(
        CheckpointError,
        match=r"written completely.*checkpoint-6.*No space.*last checkpoint is .*checkpoint-4\. ",
    ):
        trainer.train(resume_from_checkpoint=True)
    assert whole(run_dir / "checkpoint-4") == before
    assert {path.name for path in run_dir.iterdir()} == {"checkpoint-2", "checkpoint-4"}
    monkeypatch.undo()
    again = make_trainer(run_dir, make_model(), **{**SAVING, "max_steps": 6})
    again.train(resume_from_checkpoint=True)
    assert whole(run_dir / "checkpoint-6")


def _full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_limit_of_the_system_stops_the_run_and_loses_nothing(run_dir):
    """No patch: the kernel refuses to write files of more than 30 kB."""
    trainer = make_trainer(run_dir, make_model(), **{**SAVING, "max_steps": 6})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(
            CheckpointError,
            match=r"written completely.*checkpoint-6.*([Ff]ile too large|unexpected)",
        ) as error:
            trainer.train(resume_from_checkpoint=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert clear(error.value)
    assert {path.name for path in run_dir.iterdir()} == {"checkpoint-2", "checkpoint-4"}
    assert whole(run_dir / "checkpoint-4")


def test_an_old_checkpoint_that_cannot_be_deleted_stays(run_dir, monkeypatch):
    rename = os.rename

    def refuse(source, target):
        if str(source).endswith("checkpoint-2"):
            raise PermissionError(13, "Permission denied", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    trainer = make_trainer(
        run_dir, make_model(), **{**SAVING, "max_steps": 6, "save_total_limit": 2}
    )
    with pytest.warns(
        UserWarning, match=r"An old checkpoint cannot be deleted and stays: .*checkpoint-2"
    ):
        trainer.train(resume_from_checkpoint=True)
    assert {path.name for path in run_dir.iterdir()} == {
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-6",
    }


def test_a_checkpoint_that_may_only_be_read_is_resumed_from(run_dir):
    for path in sorted(run_dir.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        trainer = make_trainer(run_dir.parent / "other", make_model(), **{**SAVING, "max_steps": 6})
        trainer.train(resume_from_checkpoint=str(run_dir / "checkpoint-4"))
    finally:
        for path in [run_dir, *run_dir.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)
    assert whole(run_dir.parent / "other" / "checkpoint-6")


@pytest.mark.parametrize("steps", [3, 4, 5])
def test_a_run_that_was_finished_takes_no_further_step(tmp_path, steps):
    """As where a job was killed after its last checkpoint; before, at and after the end of an epoch
    of four steps.
    """
    given = {"save_strategy": "steps", "save_steps": steps, "max_steps": steps}
    given |= {"lr_scheduler_type": "constant", "eval_strategy": "epoch", "eval_dataset": texts(3)}
    finished = make_trainer(tmp_path, make_model(), **given)
    finished.train()
    again = make_trainer(tmp_path, make_model(seed=1), **given)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == steps
    assert not hasattr(again, "seen")
    assert all(
        torch.equal(one, snapshot(again.model)[name])
        for name, one in snapshot(finished.model).items()
    )


def test_what_a_kill_left_behind_is_cleaned_away(run_dir):
    unfinished = run_dir / folders.UNFINISHED / "checkpoint-6"
    shutil.copytree(run_dir / "checkpoint-4", unfinished)
    (unfinished / seals.SEAL).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_trainer(run_dir, make_model(), **SAVING).train(resume_from_checkpoint=True)
    assert {path.name for path in run_dir.iterdir()} == {"checkpoint-2", "checkpoint-4"}


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("loads", [True, False])
@pytest.mark.filterwarnings("ignore:The run resumes from .*load_best_model_at_end:UserWarning")
def test_the_last_and_the_best_one_survive_the_end(tmp_path, limit, loads):
    """transformers deletes the last one of a run under a limit of 1."""
    given = {"eval_strategy": "steps", "eval_steps": 2, "eval_dataset": texts(3), "max_steps": 6}
    given |= {"load_best_model_at_end": loads, "metric_for_best_model": "eval_score"}

    def score(_):
        return {"score": {2: 0.9, 4: 0.1, 6: 0.2}[trainer.state.global_step]}

    given |= {"greater_is_better": True, "compute_metrics": score, "save_total_limit": limit}
    trainer = make_trainer(tmp_path, make_model(), **{**SAVING, **given})
    trainer.train()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2", "checkpoint-6"}
    assert whole(tmp_path / "checkpoint-2")
    assert whole(tmp_path / "checkpoint-6")
    assert trainer.args.save_total_limit == limit

    # The run can go on from there.
    given["max_steps"] = 8
    trainer = make_trainer(tmp_path, make_model(), **{**SAVING, **given})
    trainer.args.eval_strategy = "no"
    trainer.args.load_best_model_at_end = False
    trainer.train(resume_from_checkpoint=True)
    assert len(trainer.seen) == 2


@pytest.mark.parametrize("what", ["corrupted adapter", "no folder of a language"])
def test_a_damaged_best_model_is_refused(run_dir, what):
    given = {
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "eval_strategy": "steps",
    }
    given |= {"eval_steps": 2, "eval_dataset": texts(3), "max_steps": 6}
    trainer = make_trainer(run_dir, make_model(), **{**SAVING, **given}, learning_rate=0.3)
    load = trainer._load_best_model

    def damaged():
        DAMAGED[what][0](folders.checkpoints(run_dir)[0])
        trainer.state.best_model_checkpoint = str(folders.checkpoints(run_dir)[0])
        load()

    trainer._load_best_model = damaged
    with pytest.raises(
        MetaAdapterError,
        match=r"A checkpoint must be exactly what was written\. Found in .*checkpoint-2",
    ):
        trainer.train()
