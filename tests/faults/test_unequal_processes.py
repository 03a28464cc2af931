"""Processes that were given different things are refused together, at the start, by one message;
what may differ between processes is not.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import random
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch.utils.data import IterableDataset
from transformers import TrainerCallback

from hf_meta_adapters import joint_step, meta_step, next_step
from hf_meta_adapters.errors import ConfigurationError, MetaAdapterError
from hf_meta_adapters.training import _start_together
from hf_meta_adapters.training._argument_record import OWN_ARGUMENTS
from tests.processes import outcome, together
from tests.training import (
    LANGUAGES,
    Recorder,
    make_model,
    make_trainer,
    masking,
    rows,
    snapshot,
    texts,
)

LIMIT = 240  # seconds, of a launch with all cases
SOON = 20  # seconds, of a case
pytestmark = [
    pytest.mark.distributed,
    pytest.mark.timeout(LIMIT + 60),
    pytest.mark.xdist_group("unequal"),
]
SAVED = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}


class Stream(IterableDataset):
    """Rows that cannot be counted."""

    def __init__(self, several):
        self.several = several

    def __iter__(self):
        return iter(self.several)


class Drawn:
    """Rows that are another thing whenever they are read, as by augmentation."""

    draw = random.Random()

    def __len__(self):
        return 8

    def __getitem__(self, row):
        return rows(self.draw.randrange(10**6), 1, labels=2)[0]


@dataclass
class Cut:
    """A collator with a setting."""

    length: int = 6

    def __call__(self, several):
        names = several[0]
        return {key: torch.tensor([row[key][: self.length] for row in several]) for key in names}


class Plain:
    """A collator with a setting that is no field."""

    def __init__(self, length):
        self.length = length

    def __call__(self, several):
        return Cut(self.length)(several)


def cut_to(length):
    def collate(several):
        return Cut(length)(several)

    return collate


def halved(outputs, labels, **_):
    return outputs["loss"] / 2


def metrics(_):
    return {}


DATA, EVAL = texts(1), texts(3)
BACK = {"languages": LANGUAGES[::-1]}
LORA = {"target_modules": ["query"], "r": 2}


def reverse(data):
    return dict(reversed(data.items()))


def streams(data):
    return {key: Stream(several) for key, several in data.items()}


def lora(alpha):
    return LoraConfig(lora_alpha=alpha, **LORA)


CASES = {
    # what both are given; what else the second one is given; what the message says
    "another number of steps": ({}, {"max_steps": 3}, "`max_steps` is 2 on process 0, 3 on"),
    "saving": ({}, SAVED, "`save_strategy` is 'no' on process 0, 'steps' on process 1"),
    "another seed": ({}, {"seed": 1}, "`seed` is 42 on process 0, 1 on process 1"),
    "another rate": ({}, {"learning_rate": 0.5}, "`learning_rate` is 0.01 on process 0, 0.5"),
    "another estimator": ({}, {"meta_gradient": "exact"}, "`meta_gradient` is 'finite_difference'"),
    "a larger batch": (
        {},
        {"per_device_train_batch_size": 3},
        "`per_device_train_batch_size` is 2",
    ),
    "accumulation": ({}, {"gradient_accumulation_steps": 2}, "`gradient_accumulation_steps` is 1"),
    "another schedule": ({}, {"lr_scheduler_type": "cosine"}, "`lr_scheduler_type` is 'linear'"),
    "names of labels": ({}, {"label_names": ["labels", "x"]}, "`label_names` is None on process"),
    "order of the data": (
        {},
        {"train_dataset": reverse(DATA)},
        "the order of the languages in `train_dataset` is ['te', 'da', 'zh-Hant'] on process 0",
    ),
    "one row more": (
        {},
        {"train_dataset": {**DATA, "da": [*DATA["da"], *rows(99, 1)]}},
        "`train_dataset['da']` is 8 rows",
    ),
    "other rows": ({}, {"train_dataset": {**DATA, "te": rows(99)}}, "`train_dataset['te']` is 8"),
    "order of the rows": (
        {},
        {"meta_dataset": {**texts(2), "te": texts(2)["te"][::-1]}},
        "`meta_dataset['te']` is 8 rows (digest of a sample",
    ),
    "meta rows of training text": (
        {},
        {"meta_dataset": "train"},
        "`meta_dataset` is absent on process 0, 'train' on process 1",
    ),
    "labels alone": (
        {},
        {"train_dataset": {**DATA, "te": [{**row, "labels": [7] * 6} for row in DATA["te"]]}},
        "`train_dataset['te']` is 8 rows (digest of a sample",
    ),
    "a language of one stream": (
        {"train_dataset": streams(DATA), "meta_dataset": streams(texts(2))},
        {"train_dataset": streams(reverse(DATA))},
        "the order of the languages in `train_dataset` is",
    ),
    "a stream": ({}, {"train_dataset": {**DATA, "te": Stream(DATA["te"])}}, "a stream of type"),
    "no data to score": ({}, {"eval_dataset": None}, "the languages in `eval_dataset` is ['te'"),
    "order of scores": (
        {},
        {"eval_dataset": reverse(EVAL)},
        "the order of the languages in `eval_dataset`",
    ),
    "order of the model": (
        {"train_dataset": DATA, "meta_dataset": texts(2)},
        {"model": BACK},
        "the order of the model's languages is ['te', 'da', 'zh-Hant'] on process 0",
    ),
    "dropout of the base": (
        {},
        {"model": {"dropout": 0.1}},
        "`base_model.config.hidden_dropout_prob` is 0.0 on",
    ),
    "precision of weights": ({}, {"model": {"dtype": torch.float64}}, "torch.float64 on process 1"),
    "scale of LoRA": (
        {"model": {"config": lora(1)}},
        {"model": {"config": lora(2)}},
        "`config.lora_alpha` is 1 on process 0, 2 on process 1",
    ),
    "frozen weights": ({}, {"only": "te"}, "` is θ, "),
    "mixed precision": ({}, {"env": {"ACCELERATE_MIXED_PRECISION": "bf16"}}, "mixed"),
    "field of a collator": (
        {"data_collator": Cut()},
        {"data_collator": Cut(5)},
        "`data_collator.length` is 6 on process 0, 5 on process 1",
    ),
    "attribute of a collator": (
        {"data_collator": Plain(6)},
        {"data_collator": Plain(5)},
        "`data_collator.length` is 6 on process 0, 5 on process 1",
    ),
    "variable of a collator": (
        {"data_collator": cut_to(6)},
        {"data_collator": cut_to(5)},
        "`data_collator` is",
    ),
    "another collator": ({"data_collator": masking()}, {"data_collator": Cut()}, "`data_collator`"),
    "a loss": ({}, {"compute_loss_func": halved}, "`compute_loss_func` is None on process 0"),
    "metrics": ({}, {"compute_metrics": metrics}, "`compute_metrics` is False on process 0"),
    "an optimizer": (
        {},
        {"optimizer": 0.1},
        "the optimizer is absent on process 0",
    ),
    "another library": ({}, {"version": "0.0.1"}, "the version of torch is"),
    "another call": (
        {},
        {"call": "evaluate"},
        "the call is `train(resume_from_checkpoint=False)` on process 0, `evaluate()` on process 1",
    ),
    "other weights to score": (
        {"call": "evaluate"},
        {"model": {"seed": 1}},
        "the value of `model.",
    ),
    "other data to score": (
        {"call": "evaluate"},
        {"eval_dataset": texts(5)},
        "`eval_dataset['te']` is 8 rows",
    ),
    "other data to predict": (
        {"call": "predict"},
        {"predicted": reverse(EVAL)},
        "the order of the languages in `test_dataset`",
    ),
    "one of two resumes": (
        SAVED,
        {"resume": "checkpoint-1"},
        "`train(resume_from_checkpoint=False)` on process 0, `train(resume_from_checkpoint=True)`",
    ),
    "another checkpoint": (
        {**SAVED, "resume": "checkpoint-1"},
        {"resume": "checkpoint-2"},
        "the checkpoint is of step 1 (",
    ),
    "no checkpoint": (
        {**SAVED, "resume": "checkpoint-1"},
        {"resume": "checkpoint-7"},
        "checkpoint-7",
    ),
    "weights that are NaN": ({}, {"spoil": float("nan")}, "Found NaN or infinity"),
}


def begin(folder, rank, given):
    """Make a Trainer of what is given, and call it."""
    given = {"eval_dataset": EVAL, "train_dataset": DATA, "meta_dataset": texts(2), **given}
    call, predicted = given.pop("call", "train"), given.pop("predicted", EVAL)
    resume, only = given.pop("resume", None), given.pop("only", None)
    model = make_model(**given.pop("model", {}))
    if only:
        model.train_only(only)
    if given.pop("spoil", None):
        with torch.no_grad():
            next(model.parameters()).fill_(torch.nan)
    rate = given.pop("optimizer", None)
    if rate:
        given["optimizers"] = (torch.optim.SGD(model.parameters(), lr=rate), None)
    os.environ |= given.pop("env", {})
    said = given.pop("version", None)
    _start_together.version = lambda library: (
        said if said and library == "torch" else importlib.metadata.version(library)
    )
    trainer = make_trainer(folder / "run", model, ddp_timeout=SOON, **given)
    if call == "train":
        trainer.train(resume_from_checkpoint=resume and str(folder / "saved" / resume))
    elif call == "evaluate":
        trainer.evaluate()
    else:
        trainer.predict(predicted)


def begin_all(rank, folder):
    folder, told = Path(folder), {}
    make_trainer(folder / "saved", make_model(), **SAVED).train()
    for name, (both, second, _) in CASES.items():
        given = {**both, **second} if rank else both
        before = dict(os.environ)
        started, told[name] = time.monotonic(), ["nothing", 0]
        try:
            begin(folder, rank, given)
        except MetaAdapterError as error:
            told[name] = [f"{type(error).__name__}: {error}", time.monotonic() - started]
        os.environ.clear()
        os.environ.update(before)
        (folder / f"{rank}.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unequal")
    together(folder, begin_all, str(folder), limit=LIMIT)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_what_differs_is_refused_by_name_on_both_processes(told, name):
    (first, took), (second, lasted) = (one[name] for one in told)
    assert max(took, lasted) < SOON
    if name in ("no checkpoint", "weights that are NaN"):  # an error of the second one
        assert first.startswith("ConfigurationError: All processes must be able to start. Found on")
        assert f"process 1: {second}" in first
        assert CASES[name][-1] in second
    else:
        assert first == second
        assert first.startswith("ConfigurationError: All processes of a run must make the same")
        assert CASES[name][-1] in first
        assert "Start the same script" in first


def own_things(rank, folder):
    """Everything that may differ, at once."""
    data = {**DATA, "te": [{**row, "path": f"/disk{rank}/{row}"} for row in DATA["te"]]}
    given = {
        "train_dataset": {**data, "da": Drawn()},
        "callbacks": [TrainerCallback()] * (1 - rank),
        "report_to": "none",
        "disable_tqdm": rank == 1,
        "log_level": ["info", "error"][rank],
        "run_name": f"process {rank}",
        "hub_model_id": [None, "me/family"][rank],
        "hub_token": [None, "hf_secret"][rank],
        "dataloader_pin_memory": rank == 1,
        "ddp_backend": [None, "gloo"][rank],
        "data_collator": Cut(),
    }
    model = make_model(seed=rank)  # DDP sends those of the first process to all others
    trainer = make_trainer(Path(folder) / f"run{rank}", model, kind=Recorder, **given)
    trainer.train()
    torch.save(snapshot(model), Path(folder) / f"{rank}.pt")
    trainer.save_model()  # the first process alone writes
    trainer.evaluate(EVAL)
    trainer.train()
    trainer.predict(EVAL)


def test_what_may_differ_may(tmp_path):
    together(tmp_path, own_things, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_no_secret_is_compared():
    assert {"hub_token", "push_to_hub_token"} <= OWN_ARGUMENTS.keys()


WAIT = 8  # seconds


def stop_at(rank, folder, where):
    """The second process is stopped, as by a debugger or a full disk of swap."""
    folder = Path(folder)

    class Stopped(Recorder):
        def halt(self, here):
            if rank == 1 and where == here:
                (folder / "stopped").write_text(f"{os.getpid()} {time.time()}")
                os.kill(os.getpid(), signal.SIGSTOP)
                # whoever wakes it
                threading.Event().wait()

        def training_step(self, *args, **kwargs):
            if self.state.global_step == 1:
                self.halt("step")
            return super().training_step(*args, **kwargs)

        def prediction_step(self, *args, **kwargs):
            self.halt("evaluate")
            return super().prediction_step(*args, **kwargs)

    trainer = make_trainer(
        folder / "run", make_model(), kind=Stopped, eval_dataset=EVAL, ddp_timeout=WAIT, max_steps=4
    )
    try:
        if where == "evaluate":
            trainer.evaluate()
        trainer.train()
    finally:
        process, moment = (folder / "stopped").read_text().split()
        os.kill(int(process), signal.SIGKILL)
        (folder / "waited").write_text(str(time.time() - float(moment)))


@pytest.mark.parametrize("where", ["step", "evaluate"])
def test_a_process_that_is_stopped_ends_the_others_in_time(tmp_path, where):
    codes, errors = outcome(tmp_path, stop_at, [(str(tmp_path), where)] * 2)
    assert codes == [1, -signal.SIGKILL], errors
    steps = 1 if where == "step" else 0
    assert errors[0].startswith(
        "MetaAdapterError: All 2 processes must stay alive until the end. Found one, after"
        f" {steps} steps, that did not answer for {WAIT} seconds (`ddp_timeout`): it was stopped,"
    )
    assert float((tmp_path / "waited").read_text()) < WAIT + 5


def absent(rank, folder):
    if rank == 0:
        make_trainer(folder, make_model(), ddp_timeout=2)


def test_a_process_that_never_comes_is_named(tmp_path):
    codes, errors = outcome(tmp_path, absent, [(str(tmp_path),)] * 2)
    assert codes == [1, 0]
    assert errors[0].startswith(
        "MetaAdapterError: All processes of a launch must start. Found that"
    )
    assert "`ddp_timeout=2` seconds" in errors[0]


def batches(languages=LANGUAGES, seed=1):
    return {
        key: {name: torch.tensor([row[name] for row in several]) for name in several[0]}
        for key, several in texts(seed, languages, 2).items()
    }


STEPS = {
    # what the second process does otherwise
    "order of the languages": ({"train": BACK}, "the languages of the training batches"),
    "order of the meta languages": ({"meta": BACK}, "the languages of the meta batches"),
    "another option": ({"lookahead": "per_language"}, "the options"),
    "another rate": ({"inner_learning_rate": 0.2}, "the options"),
    "other weights": ({"model": {"seed": 1}}, "the values of the parameters"),
    "another size": ({"model": {"config": lora(1)}}, "the shapes of the parameters"),
    "another function": ({"function": "joint"}, "the function"),
    "the next step on one process": ({"function": "next"}, "the function"),
}
NEXT_STEPS = {
    "next step, order of the languages": (
        {"train": BACK},
        "the languages of the training batches",
    ),
    "next step, another option": ({"indirect_ratio": 1.0}, "the options"),
    "next step, other weights": ({"model": {"seed": 1}}, "the values of the parameters"),
}


def step_together(rank, folder):
    torch.distributed.init_process_group("gloo")
    told = {}
    for name, (second, _) in {**STEPS, **NEXT_STEPS}.items():
        given = dict(second if rank else {})
        model = make_model(**given.pop("model", {}))
        train, meta = (batches(**given.pop(role, {})) for role in ("train", "meta"))
        function = given.pop("function", "next" if name in NEXT_STEPS else "meta")
        given["all_reduce"] = torch.distributed.all_reduce
        try:
            if function == "joint":
                joint_step(model, train, **given)
            elif function == "next":
                optimizer = torch.optim.AdamW(model.parameters())
                next_step(model, train, optimizer=optimizer, **given)
            else:
                meta_step(model, train, meta, **{"inner_learning_rate": 0.1, **given})
        except ConfigurationError as error:
            told[name] = str(error)

    # Once per model, and not again.
    model = make_model()
    sizes = []

    def counted(tensor):
        sizes.append(tensor.dtype)
        torch.distributed.all_reduce(tensor)

    for _ in range(2):
        meta_step(model, batches(), batches(), all_reduce=counted, inner_learning_rate=0.1)
        told[f"messages {len(told)}"] = len(sizes)
        sizes.clear()
    for name, reduce in {"copies": torch.Tensor.clone, "means": lambda tensor: tensor}.items():
        with pytest.raises(ConfigurationError, match=r"`all_reduce` must sum .* in place") as error:
            meta_step(
                make_model(), batches(), batches(), all_reduce=reduce, inner_learning_rate=0.1
            )
        told[name] = str(error.value)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    together(folder, step_together, str(folder))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", [*STEPS, *NEXT_STEPS])
def test_steps_of_a_plain_loop_that_differ_are_refused(steps, name):
    for said in steps:
        assert said[name].startswith("All processes must take the same step on the same model")
        assert {**STEPS, **NEXT_STEPS}[name][-1] in said[name].partition("Here:")[0]


def test_steps_are_compared_once(steps):
    first, second = (count for name, count in steps[0].items() if name.startswith("messages"))
    assert first == second + 1
