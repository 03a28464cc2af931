"""The settings of fine-tuning recipes: their names are the Trainer's, and old ones still work."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hf_meta_adapters import MetaAdapterTrainingArguments
from hf_meta_adapters.cli.given_arguments import parse_given
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation import POS
from hf_meta_adapters.finetuning import FinetuningArguments, FinetuningSettings
from hf_meta_adapters.finetuning._stage_arguments import stage_arguments


def parsed(*arguments: object) -> tuple[FinetuningArguments, dict[str, object]]:
    return parse_given(
        FinetuningArguments, MetaAdapterTrainingArguments, [str(one) for one in arguments]
    )


def test_arguments_of_the_trainer_are_known_where_they_are_given(tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("lookahead: next\nlogging_steps: 5\nseed: 3\nmeta_languages: {sw: 1.0}\n")
    args, training = parsed(
        *("--config", config, "--bf16", "--logging_steps", 7, "--label_names", "a", "b"),
        *("--logging_strategy", "steps", "--load_best_model_at_end", "false"),
        *("--learning_rate", "0.5", "--adapter_update", "meta"),
    )
    assert (args.seed, args.learning_rate) == (3, 0.5)
    # defaults of the Trainer among them: they were asked for
    assert training == {
        "lookahead": "next",
        "logging_steps": 7,
        "meta_languages": {"sw": 1.0},
        "bf16": True,
        "label_names": ["a", "b"],
        "logging_strategy": "steps",
        "load_best_model_at_end": False,
        "adapter_update": "meta",
    }
    settings = args.settings({**training, "push_to_hub": True, "hub_token": "secret"})
    assert settings.training == training
    assert settings.given()["learning_rate"] == 0.5


def test_nothing_is_given_by_nobody() -> None:
    args, training = parsed()
    assert (args, training) == (FinetuningArguments(), {})


def test_a_name_of_both_classes_belongs_to_the_first() -> None:
    @dataclass
    class First:
        steps: int = 1

    @dataclass
    class Second:
        steps: str = "none"
        names: list[str] = field(default_factory=list)

    assert parse_given(First, Second, ["--steps", "2"]) == (First(2), {})
    assert parse_given(First, Second, ["--names", "a"]) == (First(), {"names": ["a"]})


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [("epochs", "num_train_epochs", 2.0), ("batch_size", "per_device_train_batch_size", 8)],
)
def test_old_names_still_work(old: str, new: str, value: float) -> None:
    with pytest.warns(FutureWarning, match=rf"`{old}` is deprecated.*`{new}={value}`"):
        args, _ = parsed(f"--{old}", value)
    assert args == FinetuningArguments(**{new: value})


@pytest.mark.parametrize(
    ("protocol", "part"), [("zero-shot", "shared"), ("joint-few-shot", "all"), ("few-shot", "all")]
)
def test_what_is_trained_suits_the_protocol(protocol: str, part: str) -> None:
    assert FinetuningArguments(protocol=protocol).trained_part() == part
    assert FinetuningArguments(protocol=protocol, train="head").trained_part() == "head"


def test_an_option_of_another_protocol_is_refused() -> None:
    args = FinetuningArguments(model="m", data="d", protocol="few-shot", target_role="meta")
    with pytest.raises(ConfigurationError, match="`target_role` is an option of"):
        args.check()
    args = FinetuningArguments(model="m", data="d", protocol="meta")
    with pytest.raises(ConfigurationError, match=r"one of \['within-language'.*Found.*'meta'"):
        args.check()


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({}, 30),  # 3 passes over 80 rows, 8 in a step
        ({"gradient_accumulation_steps": 2}, 15),
        ({"num_train_epochs": 0.5}, 5),
        ({"languages_per_step": 1}, 60),  # each language is in every second step
        ({"max_steps": 7}, 7),
    ],
)
def test_an_epoch_is_a_pass_over_the_language_with_most_labels(
    given: dict[str, float], steps: int, tmp_path: Path
) -> None:
    settings = FinetuningSettings(batch_size=8, training=given)
    args = stage_arguments(settings, POS(), {"en": 80, "sw": 10}, str(tmp_path))
    assert (args.max_steps, args.warmup_steps) == (steps, steps // 10)


@pytest.mark.parametrize(
    ("given", "has_meta_rows", "update"),
    [
        ({}, False, "train"),
        ({}, True, "meta"),
        ({"lookahead": "next"}, False, "meta"),
        ({"preset": "paper"}, False, "meta"),
        ({"adapter_update": "meta+train"}, True, "meta+train"),
        ({"adapter_update": "train"}, False, "train"),
    ],
)
def test_an_option_of_the_meta_gradient_asks_for_it(
    given: dict[str, str], has_meta_rows: bool, update: str, tmp_path: Path
) -> None:
    settings = FinetuningSettings(training=given)
    rows, folder = {"en": 8}, str(tmp_path)
    args = stage_arguments(settings, POS(), rows, folder, has_meta_rows=has_meta_rows)
    assert args.adapter_update == update
    assert args.adapter_learning_rate == args.learning_rate == 5e-5


def test_meta_rows_without_a_meta_gradient_are_refused(tmp_path: Path) -> None:
    settings = FinetuningSettings(training={"adapter_update": "train"})
    with pytest.raises(ConfigurationError, match="`meta_datasets`, which would have no effect"):
        stage_arguments(settings, POS(), {"en": 8}, str(tmp_path), has_meta_rows=True)
