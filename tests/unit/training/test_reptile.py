"""Sequential Reptile in the Trainer: a loop of one's own, interruptions, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_meta_adapters import MetaAdapterTrainingArguments, joint_step
from hf_meta_adapters.errors import CheckpointError, ConfigurationError
from tests.training import LANGUAGES, make_model, make_trainer, masking, snapshot, texts

REPTILE = {
    "languages_per_step": 1,
    "adapter_update": "train",
    "reptile_steps": 3,
    "meta_dataset": None,
    "train_dataset": texts(1),
}
PLAIN = {"lr_scheduler_type": "linear", "adam_epsilon": 1e-4, "weight_decay": 0.1}


def trained(folder: Path, resume: str | None = None, **options):
    """The parameters at the end of a run, and the Trainer."""
    names = ("dtype", "config", "dropout", "shared")
    made = {name: options.pop(name) for name in names if name in options}
    model = make_model(**{"dtype": torch.float64, **made})
    trainer = make_trainer(folder, model, **{**REPTILE, **PLAIN, **options})
    trainer.train(resume)
    return snapshot(model), trainer


def by_hand(seen, steps: int, rate: float, accumulation: int = 1, **made):
    """The same run with an optimizer of one's own, and θ moved by three lines."""
    model = make_model(dtype=torch.float64, **made)
    shared = model.shared_parameters()
    phi = {name for key in LANGUAGES for name in model.language_parameters(key)}
    named = dict(model.named_parameters())
    optimizer = torch.optim.SGD(
        [
            {"params": [named[name] for name in shared], "lr": 0.1},
            {"params": [named[name] for name in phi], "lr": 0.2},
        ]
    )
    count = len(seen) // accumulation
    for number in range(count):
        micro = seen[number * accumulation : (number + 1) * accumulation]
        (language,) = micro[0]["train"]
        batch = {language: [inputs["train"][language] for inputs in micro]}
        if number % steps == 0:
            start = {name: parameter.detach().clone() for name, parameter in shared.items()}

        step = joint_step(model, batch)
        own = step.train.get(language, {})
        for name, parameter in named.items():
            parameter.grad = {**step.shared, **own}.get(name)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        if number % steps == steps - 1 or number == count - 1:
            with torch.no_grad():
                for name, parameter in shared.items():
                    parameter.copy_(start[name] + rate * (parameter - start[name]))
    return snapshot(model)


@pytest.mark.parametrize(
    "options",
    [
        {"reptile_rate": 0.5},
        {"reptile_steps": 2},
        {"reptile_rate": 0.5, "gradient_accumulation_steps": 2},
        {"reptile_steps": 100},
    ],
)
def test_equals_a_loop_of_ones_own(tmp_path: Path, options) -> None:
    given = {"optim": "sgd", "lr_scheduler_type": "constant", "learning_rate": 0.1,
             "weight_decay": 0.0, "max_steps": 7, **options}  # fmt: skip
    found, trainer = trained(tmp_path, **given)
    languages = {key for inputs in trainer.seen for key in inputs["train"]}
    assert len(languages) > 1
    expected = by_hand(
        trainer.seen,
        options.get("reptile_steps", 3),
        options.get("reptile_rate", 0.1),
        options.get("gradient_accumulation_steps", 1),
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=name)


def test_a_rate_of_1_is_joint_training_step_by_step(tmp_path: Path) -> None:
    found, _ = trained(tmp_path / "a", max_steps=4, reptile_rate=1.0)
    expected, _ = trained(tmp_path / "b", max_steps=4, reptile_steps=None)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12, msg=name)
    other, _ = trained(tmp_path / "c", max_steps=4, reptile_rate=0.2)
    assert any(not torch.allclose(other[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"bf16": True, "dtype": torch.float32},
        {"config": None, "adapter_update": "meta"},
    ],
)
@pytest.mark.parametrize("stop", [4, 6])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path: Path, options, stop) -> None:
    """From within a loop, as a run that is killed leaves it, and from its end."""

    class Stopped(Exception):
        pass

    from transformers import TrainerCallback

    class Save(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_save = state.global_step == stop

    given = {"dropout": 0.1, "max_steps": 8, "data_collator": masking(), **options}
    whole, _ = trained(tmp_path / "a", callbacks=[Save()], **given)
    folder = tmp_path / "a" / f"checkpoint-{stop}"
    assert (folder / "reptile.safetensors").is_file() == bool(stop % 3)
    resumed, _ = trained(tmp_path / "b", str(folder), **given)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_a_checkpoint_within_a_loop_needs_its_beginning(tmp_path: Path) -> None:
    from transformers import TrainerCallback

    class Save(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_save = state.global_step == 4

    _, trainer = trained(tmp_path / "a", max_steps=5, callbacks=[Save()])
    folder = tmp_path / "a" / "checkpoint-4"
    saved = load_file(folder / "reptile.safetensors")
    assert saved.keys() == trainer._model.shared_parameters().keys()
    (folder / "reptile.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"damaged|incomplete|missing|reptile"):
        trained(tmp_path / "b", str(folder), max_steps=5)


def test_evaluations_and_saves_at_the_ends_of_loops_are_taken(tmp_path: Path) -> None:
    _, trainer = trained(
        tmp_path, max_steps=7, eval_strategy="steps", eval_steps=3, save_strategy="steps",
        save_steps=6, eval_dataset=texts(3), load_best_model_at_end=True,
    )  # fmt: skip
    assert (tmp_path / "checkpoint-6").is_dir()
    scored = [line["step"] for line in trainer.state.log_history if "eval_loss" in line]
    assert scored[:2] == [3, 6]
    assert set(scored) <= {3, 6, 7}  # the last step ends a loop as well


REFUSED = {
    "languages": ({"languages_per_step": 2}, r"`languages_per_step=2` \(set 1"),
    "all languages": ({"languages_per_step": None}, r"`languages_per_step=None` \(set 1"),
    "meta": ({"adapter_update": "meta", "meta_dataset": texts(2)}, r'"meta"` \(set "train"'),
    "eval": ({"eval_strategy": "steps", "eval_steps": 4, "eval_dataset": texts(3)},
             r"`eval_steps=4` \(set 3 or a multiple"),
    "save": ({"save_strategy": "steps", "save_steps": 500}, r"`save_steps=500` \(set 3"),
    "epochs": ({"save_strategy": "epoch"}, r'`save_strategy="epoch"` \(epochs end within loops'),
    "frozen": ({"shared": "none"}, r"a model without a trained θ"),
    "rate alone": ({"reptile_steps": None, "reptile_rate": 0.5}, r"0.5 without `reptile_steps`"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused(tmp_path: Path, name: str) -> None:
    options, message = REFUSED[name]
    with pytest.raises(ConfigurationError, match=message):
        trained(tmp_path, **options)


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"languages_per_step.*save_steps=4.*Change these"):
        trained(tmp_path, languages_per_step=2, save_strategy="steps", save_steps=4)


def test_a_schedule_free_optimizer_is_refused(tmp_path: Path) -> None:
    class AdamWScheduleFree(torch.optim.AdamW):
        pass

    model = make_model()
    optimizer = AdamWScheduleFree(model.parameters())
    with pytest.raises(ConfigurationError, match="schedule-free"):
        make_trainer(tmp_path, model, optimizers=(optimizer, None), **REPTILE)


@pytest.mark.parametrize(
    "options",
    [{"reptile_steps": 0}, {"reptile_steps": 1.5}, {"reptile_rate": 0}, {"reptile_rate": 1.5},
     {"reptile_rate": float("nan")}],
)  # fmt: skip
def test_values_are_checked(tmp_path: Path, options) -> None:
    (name,) = options
    with pytest.raises(ConfigurationError, match=f"`{name}` must be"):
        MetaAdapterTrainingArguments(str(tmp_path), **options)
