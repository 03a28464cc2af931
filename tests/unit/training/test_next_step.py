"""`lookahead="next"` in the Trainer: a loop of its own, interruptions, skipped steps, bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hf_meta_adapters import MetaAdapterTrainingArguments, next_step
from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.hub.public import KEPT_ROWS, additions, files_to_publish
from hf_meta_adapters.steps.kept_state import KeptState
from hf_meta_adapters.training._kept_step_file import _NAME, read_kept_state, write_kept_state
from hf_meta_adapters.training._publishing import _OF_THE_RUN
from tests.training import LANGUAGES, make_model, make_trainer, masking, snapshot, texts

NEXT = {"lookahead": "next", "meta_dataset": None}
PLAIN = {"lr_scheduler_type": "linear", "adam_epsilon": 1e-4, "weight_decay": 0.1}


def trained(folder: Path, resume: str | bool | None = None, **options):
    """The parameters at the end of a run, and the Trainer."""
    model = make_model(dtype=options.pop("dtype", torch.float64), dropout=options.pop("dropout", 0))
    trainer = make_trainer(folder, model, **{**NEXT, **PLAIN, **options})
    trainer.train(resume)
    return snapshot(model), trainer


@pytest.mark.parametrize(
    "options",
    [{}, {"indirect_ratio": 1.0}, {"meta_gradient": "exact"}, {"mixed_languages": 0.5}],
)
def test_equals_a_loop_of_ones_own(tmp_path: Path, options) -> None:
    found, trainer = trained(tmp_path, max_steps=4, adapter_learning_rate=0.02, **options)

    model = make_model(dtype=torch.float64)
    rates = {"betas": (0.9, 0.999), "eps": 1e-4}
    weights = trainer.get_decay_parameter_names(model)
    named = dict(model.named_parameters())
    phi = {name for key in LANGUAGES for name in model.language_parameters(key)}
    groups = [
        {
            "params": [
                p
                for name, p in named.items()
                if (name in phi) == own and (name in weights) == heavy
            ],
            "lr": 0.02 if own else 0.01,
            "weight_decay": 0.1 if heavy else 0.0,
        }
        for own in (False, True)
        for heavy in (False, True)
    ]
    optimizer = torch.optim.AdamW(groups, **rates)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 4)
    kept, drawn = None, set()
    for number, inputs in enumerate(trainer.seen):
        given = {"seed": (trainer.args.seed << 32) + number, **options}
        step = next_step(model, inputs["train"], optimizer=optimizer, kept=kept, **given)
        for name, parameter in named.items():
            owners = [grad[name] for grad in step.language.values() if name in grad]
            parameter.grad = step.shared.get(name, *owners)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        kept = step.kept
        drawn.add(tuple(kept.passes))
    assert len(drawn) == (2 if "mixed_languages" in options else 1)

    for name, value in snapshot(model).items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=name)

    baseline, _ = trained(
        tmp_path, max_steps=4, adapter_learning_rate=0.02, lookahead=None, adapter_update="train"
    )
    assert not torch.allclose(found[next(iter(phi))], baseline[next(iter(phi))], rtol=1e-6)


def test_without_the_indirect_part_it_is_joint_training(tmp_path: Path) -> None:
    found, _ = trained(tmp_path / "next", max_steps=3, meta_gradient="first_order")
    expected, _ = trained(tmp_path / "joint", max_steps=3, lookahead=None, adapter_update="train")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    "options",
    [
        {"indirect_ratio": 1.0},
        {"mixed_languages": 0.5},
        {"gradient_accumulation_steps": 2, "languages_per_pass": 2, "dropout": 0.0},
        {"languages_per_step": 2, "meta_gradient": "exact"},
        {"meta_every": 2, "finite_difference_scheme": "one_sided"},
        {"bf16": True, "dtype": torch.float32},
    ],
)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path: Path, options) -> None:
    """With dropout and fresh masks: what is kept of the step before is part of the checkpoint."""
    given = {"dropout": 0.1, "max_steps": 6, "save_strategy": "steps", "save_steps": 3, **options}
    whole, trainer = trained(tmp_path / "a", data_collator=masking(), **given)
    folder = str(tmp_path / "a" / "checkpoint-3")
    resumed, _ = trained(tmp_path / "b", folder, data_collator=masking(), **given)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())

    ratios = [line["meta_indirect_ratio"] for line in trainer.state.log_history[1:-1]]
    assert any(ratio > 0 for ratio in ratios)


def test_between_the_steps_of_meta_every_phi_is_trained_jointly(tmp_path: Path) -> None:
    _, trainer = trained(tmp_path, max_steps=6, meta_every=3, dtype=torch.float32)
    ratios = [line["meta_indirect_ratio"] for line in trainer.state.log_history[:-1]]
    assert [ratio > 0 for ratio in ratios] == [False, False, False, True, False, False]
    assert all(line["meta_direct_norm"] > 0 for line in trainer.state.log_history[:-1])


def test_a_held_ratio_is_logged_with_the_raw_one(tmp_path: Path) -> None:
    _, trainer = trained(tmp_path, max_steps=3, indirect_ratio=2.0)
    last = trainer.state.log_history[-2]
    assert last["meta_indirect_ratio"] == pytest.approx(2.0)
    assert 0 < last["meta_raw_indirect_ratio"] != pytest.approx(2.0)


def test_after_a_skipped_step_there_is_no_indirect_part(tmp_path: Path) -> None:
    calls: list[int] = []

    def sometimes_infinite(outputs, labels, num_items_in_batch=None):
        calls.append(1)
        loss = torch.nn.functional.cross_entropy(outputs["logits"].flatten(0, -2), labels.flatten())
        return loss * float("inf") if len(calls) == 4 else loss

    model = make_model()
    trainer = make_trainer(
        tmp_path, model, compute_loss_func=sometimes_infinite, skip_nonfinite_steps=1, max_steps=4,
        sparse_head=False, **NEXT,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="Step 2 is skipped"):
        trainer.train()
    lines = [line for line in trainer.state.log_history if "meta_indirect_ratio" in line]
    assert [line["meta_indirect_ratio"] > 0 for line in lines] == [False, False, True]


def test_all_rows_are_training_rows(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_model(), **NEXT)
    assert trainer.meta_dataset is None
    assert {key: len(rows) for key, rows in trainer.train_dataset.items()} == dict.fromkeys(
        LANGUAGES, 8
    )


def test_meta_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"reads no other. Found a `meta_dataset`"):
        make_trainer(tmp_path, make_model(), lookahead="next", meta_dataset=texts(2))


@pytest.mark.parametrize(
    "options",
    [
        {"update_order": "alternating"},
        {"adapter_update": "meta+train"},
        {"inner_optimizer": "adam"},
        {"inner_learning_rate": 0.1},
        {"meta_batch_size": 4},
    ],
)
def test_arguments_that_it_cannot_honour(tmp_path: Path, options) -> None:
    (name,) = options
    with pytest.raises(ConfigurationError, match=f'`lookahead="next"` needs `{name}='):
        MetaAdapterTrainingArguments(str(tmp_path), lookahead="next", **options)


def test_an_optimizer_without_a_known_derivative(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_model(), optim="adagrad", **NEXT)
    with pytest.raises(ConfigurationError, match=r"derivative of the step.*Found Adagrad"):
        trainer.train()


def test_a_checkpoint_of_other_processes_keeps_nothing(tmp_path: Path) -> None:
    given = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trained(tmp_path, **given)
    folder = tmp_path / "checkpoint-2"
    assert read_kept_state(folder, 0, 1) is not None
    with pytest.warns(UserWarning, match="written by 1 processes, and is read by 2"):
        assert read_kept_state(folder, 0, 2) is None


def test_a_batch_that_cannot_be_saved(tmp_path: Path) -> None:
    batch = {"input_ids": torch.tensor([[5, 6]]), "origin": object()}
    state = KeptState({"te": [batch]}, {}, {}, 1.0)
    with pytest.raises(DataError, match="Found object under 'origin'"):
        write_kept_state(tmp_path, 0, state, sharded=False)


def test_batches_are_read_as_they_were_written(tmp_path: Path) -> None:
    words = torch.tensor([[5, 6]])
    batches = {"zh-Hant": [{"input_ids": words, "task": "x"}, {"labels": words}], "te": []}
    own = {"te/random/0/0": torch.get_rng_state()}
    common = {"point/0": torch.ones(2), "te/point/0": torch.zeros(1)}
    for process in range(2):
        write_kept_state(tmp_path, process, KeptState(batches, own, common, 1 / 3), sharded=False)
        found = read_kept_state(tmp_path, process, process + 1)
        assert found is not None
        assert found.share == 1 / 3
        assert list(found.batches) == ["zh-Hant", "te"]
        assert found.batches["zh-Hant"][0]["task"] == "x"
        assert [list(batch) for batch in found.batches["zh-Hant"]] == [
            ["input_ids", "task"],
            ["labels"],
        ]
        assert torch.equal(found.batches["zh-Hant"][1]["labels"], words)
        torch.testing.assert_close({**found.own, **found.common}, {**own, **common})
    assert (tmp_path / "next_step_1.safetensors").stat().st_size < (
        tmp_path / "next_step_0.safetensors"
    ).stat().st_size


def test_rows_of_the_training_text_are_never_published(tmp_path: Path) -> None:
    """What is downloaded of a checkpoint is still whole, and says what it lacks."""
    given = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    trained(tmp_path / "run", **given)
    checkpoint = tmp_path / "run" / "checkpoint-2"
    assert list(checkpoint.glob(KEPT_ROWS))

    files = files_to_publish(checkpoint)
    assert not [path for path in files if "next_step" in path]
    downloaded = tmp_path / "downloaded"
    for addition in additions(checkpoint, files, run=tmp_path / "run"):
        place = downloaded / addition.path_in_repo
        place.parent.mkdir(parents=True, exist_ok=True)
        with addition.as_file() as content:
            place.write_bytes(content.read())

    with pytest.warns(UserWarning, match="Step 3 has no indirect part"):
        _, trainer = trained(tmp_path / "again", str(downloaded), **given)
    lines = [line for line in trainer.state.log_history if "meta_indirect_ratio" in line]
    assert [line["meta_indirect_ratio"] > 0 for line in lines] == [False, True, False, True]


def test_rows_of_the_training_text_are_not_copied_beside_the_model(tmp_path: Path) -> None:
    assert KEPT_ROWS in _OF_THE_RUN
    assert _NAME.format(process="*") == KEPT_ROWS
