"""`languages_per_pass="auto"`: the arithmetic, the choice from memory, saved runs, and refusals."""

from __future__ import annotations

import dataclasses
import json
import logging
from types import SimpleNamespace

import pytest
import torch
from peft import IA3Config
from transformers import HfArgumentParser

from hf_meta_adapters import MetaAdapterTrainingArguments
from hf_meta_adapters.errors import CheckpointError, ConfigurationError
from hf_meta_adapters.training import _next_step, _outer_step, _pass_size
from hf_meta_adapters.training._device_memory import DeviceMemory
from hf_meta_adapters.training._pass_memory import PassMemory
from hf_meta_adapters.training._pass_size import SIZE_FILE, PassSize
from tests.training import make_model, make_trainer, masking, snapshot

from .test_arguments import arguments
from .test_language_weights import lines

AUTO = {"languages_per_pass": "auto"}
NEXT = {"lookahead": "next", "meta_dataset": None}


class Card:
    """A device whose memory is known: 1 GB is taken, and a step takes 1 GB more at its peak."""

    def __init__(self, monkeypatch, capacity, peak=2e9):
        self.capacity, self.peak, self.restarts = capacity, peak, 0
        monkeypatch.setattr(_pass_size, "has_readable_memory", lambda device: True)
        monkeypatch.setattr(_pass_size, "read_memory", self.read)
        monkeypatch.setattr(_pass_size, "restart_peak", self.restart)

    def read(self, device):
        return DeviceMemory(taken=1e9, peak=self.peak, capacity=self.capacity)

    def restart(self, device):
        self.restarts += 1


def trained(folder, resume=None, *, dropout=0.0, **given):
    model = make_model(dtype=torch.float64, dropout=dropout)
    trainer = make_trainer(folder, model, **{**AUTO, **given})
    trainer.train(resume)
    return trainer


def test_what_fits_by_hand():
    memory = PassMemory()
    assert memory.fitting(capacity=80e9) == 1  # nothing is known
    memory.observe(before=10e9, peak=14e9)
    memory.observe(before=11e9, peak=13e9)
    # of 80 GB, 64 are planned for: 11 are taken, and 53 hold 13 times 4
    assert memory.fitting(capacity=80e9) == 13
    assert memory.fitting(capacity=15e9 / 0.8) == 1
    assert memory.fitting(capacity=19.1e9 / 0.8) == 2
    assert memory.fitting(capacity=1e9) == 1  # less than is needed: one pass has no smaller part

    other = PassMemory()
    other.load_state(json.loads(json.dumps(memory.state())))
    assert (other.count, other.fitting(80e9)) == (2, 13)


def test_a_step_that_takes_nothing_says_nothing():
    memory = PassMemory()
    memory.observe(before=1e9, peak=1e9)
    assert memory.fitting(80e9) == 1


@pytest.mark.parametrize(
    ("module", "name", "given"),
    [
        (_outer_step, "meta_step", {}),
        (_outer_step, "joint_step", {"adapter_update": "train"}),
        (_next_step, "next_step", NEXT),
    ],
)
def test_after_three_measured_steps_the_number_is_fixed(tmp_path, monkeypatch, module, name, given):
    card, sizes = Card(monkeypatch, capacity=0.0), []
    take = getattr(module, name)

    def call(*args, **options):
        sizes.append(options["languages_per_pass"])
        card.capacity += 1e9  # which nobody reads later
        return take(*args, **options)

    monkeypatch.setattr(module, name, call)
    # 4 GB in the fourth step: of 3.2, 1 is taken, and 2.2 hold two
    found = trained(tmp_path / "auto", max_steps=8, **given)
    assert sizes == [1, 1, 1, 1, 2, 2, 2, 2]
    assert card.restarts == 3
    assert [line["languages_per_pass"] for line in lines(found)] == [1, 1, 1, *5 * [2]]

    expected = trained(tmp_path / "one", max_steps=8, languages_per_pass=1, **given)
    assert not any("languages_per_pass" in line for line in lines(expected))
    for key, value in snapshot(expected.model).items():
        torch.testing.assert_close(snapshot(found.model)[key], value, rtol=1e-5, atol=1e-7)


def test_no_more_languages_than_there_are(tmp_path, monkeypatch):
    Card(monkeypatch, capacity=80e9)
    assert trained(tmp_path, max_steps=5)._outer_step._passes.size == 3


def test_steps_between_meta_gradients_are_not_measured(tmp_path, monkeypatch):
    card = Card(monkeypatch, capacity=80e9)
    found = trained(tmp_path, max_steps=8, meta_every=2)
    assert card.restarts == 3
    assert [line["languages_per_pass"] for line in lines(found)] == [*6 * [1], 3, 3]


@pytest.mark.parametrize("stop", [3, 4, 5])
@pytest.mark.parametrize("given", [{}, NEXT, {**NEXT, "finite_difference_scheme": "one_sided"}])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path, monkeypatch, given, stop):
    """Before, at and after the choice, with dropout, whose masks depend on the number."""
    card = Card(monkeypatch, capacity=4e9)
    given = {"dropout": 0.1, "data_collator": masking(), "max_steps": 6, **given}
    whole = trained(tmp_path / "a", save_strategy="steps", save_steps=1, **given)
    if stop > 3:  # another card, which nobody asks
        card.capacity = 80e9
    resumed = trained(tmp_path / "b", str(tmp_path / "a" / f"checkpoint-{stop}"), **given)
    assert resumed._outer_step._passes.size == 2
    expected = snapshot(whole.model)
    assert all(torch.equal(value, expected[n]) for n, value in snapshot(resumed.model).items())


def test_another_file_is_refused(tmp_path, monkeypatch):
    Card(monkeypatch, capacity=4e9)
    trainer = trained(tmp_path, max_steps=5, save_strategy="steps", save_steps=5)
    passes, folder = trainer._outer_step._passes, tmp_path / "checkpoint-5"
    assert SIZE_FILE in json.loads((folder / "checkpoint.json").read_text())["files"]
    passes.load(tmp_path)  # of a run with a number: nothing is taken over
    assert passes.size == 2
    for content in ("{", "[]", "{}", '{"size": null, "count": 3, "before": 0, "pass": 1}'):
        (folder / SIZE_FILE).write_text(content)
        with pytest.raises(CheckpointError, match=r"Found none in .*languages_per_pass"):
            passes.load(folder)


def test_processes_take_the_least(monkeypatch):
    """What fits on the smallest device; the other process says what is in the list."""
    others = [2, 2, 5, 1]

    def all_reduce(tensor, how):
        assert how == torch.distributed.ReduceOp.MIN
        tensor.clamp_(max=others.pop(0))

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(_pass_size, "_is_routable", lambda loss, step: True)
    args = arguments(**AUTO)
    step = SimpleNamespace(model=make_model(), number=3)
    for fitting, expected in ((9, 2), (3, 1)):
        passes = PassSize(args, None, takes_meta=True)
        monkeypatch.setattr(type(args), "world_size", property(lambda self: 2))
        passes._choose(fitting, step)
        assert passes.size == expected
    assert others == []


def test_on_a_cpu_it_is_one_and_the_log_says_so(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "hf_meta_adapters"):
        trainer = trained(tmp_path, max_steps=6)
    assert [line["languages_per_pass"] for line in lines(trainer)] == 6 * [1]
    assert "passes of its own: only a CUDA device says what is free." in caplog.text
    assert not list(tmp_path.rglob(SIZE_FILE))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"lookahead": "per_language"}, "needs one look-ahead and one validation loss"),
        ({"meta_languages": "others"}, "needs one look-ahead and one validation loss"),
        ({"mixed_rows": 0.5}, "takes mixed products of whole batches"),
        ({"mixed_rows": "auto"}, "takes a sample of each language"),
        ({"mixed_languages": 0.5}, "of all languages of a pass together"),
        ({"shared_update": "pcgrad"}, "the gradients of single languages are weighed"),
        ({"language_weights": "famo"}, "the gradients of single languages are weighed"),
        ({"config": IA3Config(target_modules=["query"], feedforward_modules=[])}, "route rows"),
    ],
    ids=str,
)
def test_languages_that_cannot_share_a_pass_do_not(tmp_path, monkeypatch, caplog, given, reason):
    card, given = Card(monkeypatch, capacity=80e9), dict(given)
    model = make_model(config=given.pop("config", "bottleneck"))
    with caplog.at_level(logging.INFO, "hf_meta_adapters"):
        trainer = make_trainer(tmp_path, model, max_steps=1, **AUTO, **given)
    trainer.train()
    assert reason in caplog.text
    assert (trainer._outer_step._passes.size, card.restarts) == (1, 0)


def test_a_loss_that_cannot_be_routed_is_found_before_it_is(tmp_path, monkeypatch, caplog):
    def doubled(outputs, labels, num_items_in_batch=None):
        return 2 * torch.nn.functional.cross_entropy(
            outputs["logits"].flatten(0, 1), labels.flatten()
        )

    Card(monkeypatch, capacity=80e9)
    with caplog.at_level(logging.INFO, "hf_meta_adapters"):
        trainer = trained(tmp_path, max_steps=6, compute_loss_func=doubled, sparse_head=False)
    assert trainer._outer_step._passes.size == 1
    assert "Each language keeps passes of its own: " in caplog.text


def test_arguments_keep_the_word(tmp_path):
    args = arguments(**AUTO)
    assert args.method()["languages_per_pass"] == "auto"
    assert dataclasses.replace(args, learning_rate=0.1).languages_per_pass == "auto"
    parser = HfArgumentParser(MetaAdapterTrainingArguments)
    for word, expected in (("auto", "auto"), ("3", 3)):
        (parsed,) = parser.parse_args_into_dataclasses(
            ["--output_dir", str(tmp_path), "--languages_per_pass", word, "--use_cpu", "true"]
        )
        assert parsed.languages_per_pass == expected


@pytest.mark.parametrize("value", ["all", 0, None, 1.5])
def test_other_words_are_refused(value):
    with pytest.raises(ConfigurationError, match=f"at least 1, or .*. Found {value!r}"):
        arguments(languages_per_pass=value)
