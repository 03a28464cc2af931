"""The arguments: presets, checks, and the ways in which users write and copy them."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from transformers import HfArgumentParser, TrainingArguments

from hf_meta_adapters import MetaAdapterTrainingArguments
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta import MetaOptions

METHOD = {
    "preset": None,
    "meta_gradient": "finite_difference",
    "lookahead": "shared",
    "meta_languages": "all",
    "meta_languages_per_step": None,
    "inner_steps": 1,
    "finite_difference_scheme": "central",
    "finite_difference_radius": None,
    "max_indirect_ratio": None,
    "indirect_ratio": None,
    "indirect_ratio_scope": "all",
    "shared_update": "mean",
    "shared_update_groups": "model",
    "surgery_gradients": "auto",
    "mixed_rows": 1.0,
    "mixed_languages": 1.0,
    "cpu_offload": False,
    "inner_optimizer": "sgd",
    "inner_learning_rate": 0.01,
    "adapter_learning_rate": None,
    "embedding_learning_rate": None,
    "adapter_update": "meta",
    "update_order": "simultaneous",
    "meta_batch_size": None,
    "meta_every": 1,
    "languages_per_step": None,
    "sampling": "temperature",
    "sampling_alpha": 0.7,
    "sampling_max_epochs": None,
    "sampling_end_alpha": None,
    "language_weights": "uniform",
    "language_weights_rate": None,
    "reptile_steps": None,
    "reptile_rate": None,
    "fidelity_check_steps": 500,
    "min_fidelity": 0.9,
    "skip_nonfinite_steps": 0,
    "sparse_head": None,
    "languages_per_pass": 1,
}
PAPER = {
    "meta_gradient": "exact",
    "lookahead": "per_language",
    "adapter_update": "meta",
    "update_order": "alternating",
}
FAST = {
    "meta_gradient": "finite_difference",
    "lookahead": "shared",
    "finite_difference_scheme": "one_sided",
}

UNIMAX = {"sampling": "unimax", "sampling_max_epochs": 2, "languages_per_step": 1}
COOLDOWN = {"sampling": "cooldown", "languages_per_step": 1}


def arguments(**given) -> MetaAdapterTrainingArguments:
    return MetaAdapterTrainingArguments(
        **{"output_dir": "unused", "report_to": "none", "use_cpu": True, **given}
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"preset": "paper"}, {"preset": "paper", **PAPER}),
        ({"preset": "fast"}, {"preset": "fast", **FAST}),
        (
            {"preset": "paper", "lookahead": "shared"},
            {"preset": "paper", **PAPER, "lookahead": "shared"},
        ),
        (
            {"preset": "paper", "update_order": "simultaneous", "adapter_update": "meta+train"},
            {
                "preset": "paper",
                **PAPER,
                "update_order": "simultaneous",
                "adapter_update": "meta+train",
            },
        ),
    ],
)
def test_presets_fill_in_what_was_not_given(given, expected):
    assert arguments(**given).method() == {**METHOD, **expected}


def test_the_options_of_the_outer_step_are_those_of_meta_step():
    found = arguments(preset="paper", max_indirect_ratio=0.5).meta_options()
    assert found == MetaOptions("exact", "per_language", max_indirect_ratio=0.5)


def test_no_argument_of_transformers_is_redefined():
    assert not set(METHOD) & {field.name for field in dataclasses.fields(TrainingArguments)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"preset": "quick"}, '`preset` must be one of "paper", "fast". Found \'quick\'.'),
        ({"meta_gradient": "sgd"}, "`meta_gradient` must be one of"),
        ({"lookahead": "all"}, "`lookahead` must be one of"),
        ({"meta_languages": "some"}, '`meta_languages` must be "all", "others", a list'),
        (
            {"adapter_update": "both"},
            '`adapter_update` must be one of "meta", "meta+train", "train". Found \'both\'.',
        ),
        (
            {"update_order": "random"},
            '`update_order` must be one of "simultaneous", "alternating". Found',
        ),
        ({"inner_optimizer": "adamw"}, '`inner_optimizer` must be one of "sgd", "adam". Found'),
        ({"inner_steps": 2}, 'Set `lookahead="per_language"`'),
        ({"inner_steps": 0}, "`inner_steps` must be a whole number of at least 1. Found 0."),
        (
            {"meta_batch_size": 0},
            "`meta_batch_size` must be a whole number of at least 1. Found 0.",
        ),
        ({"meta_every": 1.5}, "`meta_every` must be a whole number of at least 1. Found 1.5."),
        ({"languages_per_step": -1}, "`languages_per_step` must be a whole number"),
        (
            {"inner_learning_rate": -0.1},
            "`inner_learning_rate` must be a number of at least 0 or None. Found -0.1.",
        ),
        ({"inner_learning_rate": float("nan")}, "Found nan."),
        (
            {"adapter_learning_rate": "1e-3"},
            "Found '1e-3'. YAML reads 1e-3 as text: use 1.0e-3.",
        ),
        (
            {"sampling_alpha": 5},
            "For a temperature T use α = 1/T, for example 0.2 for T = 5.",
        ),
        ({"sampling_alpha": "0.7"}, "`sampling_alpha` is the exponent α"),
        ({"sampling": "max"}, '`sampling` must be one of "temperature", "unimax", "cooldown".'),
        ({"sampling": "cooldown"}, "Found all languages in every step. Set `languages_per_step`"),
        (
            {"sampling_max_epochs": 2},
            '`sampling_max_epochs` belongs to `sampling="unimax"`. Found 2 with',
        ),
        (
            {**UNIMAX, "sampling_end_alpha": 1},
            '`sampling_end_alpha` belongs to `sampling="cooldown"`. Found 1 with',
        ),
        ({**UNIMAX, "sampling_max_epochs": None}, "needs `sampling_max_epochs`"),
        (
            {**UNIMAX, "sampling_max_epochs": "2"},
            "`sampling_max_epochs` must be a number of at least 0",
        ),
        ({**UNIMAX, "sampling_max_epochs": 0}, "must be a positive number. Found 0."),
        ({**UNIMAX, "sampling_alpha": 0.3}, "has no exponent. Found `sampling_alpha=0.3`."),
        ({**COOLDOWN, "sampling_end_alpha": 1.5}, "`sampling_end_alpha` is the exponent α"),
        ({**COOLDOWN, "sampling_end_alpha": 0.7}, "the exponent must rise. Found 0.7 at the begin"),
        ({**COOLDOWN, "sampling_alpha": 1}, "Found 1 at the beginning and 1.0 at the end."),
        (
            {"finite_difference_radius": 0.0},
            "`finite_difference_radius` must be positive or None. Found 0.0.",
        ),
        ({"max_indirect_ratio": -1.0}, "`max_indirect_ratio` must be positive or None."),
        (
            {"fidelity_check_steps": -1},
            "`fidelity_check_steps` must be a whole number, or 0 for never. Found -1.",
        ),
        (
            {"min_fidelity": 1.5},
            "`min_fidelity` is a cosine and must be at least -1 and under 1. Found 1.5.",
        ),
        (
            {"fp16": True, "update_order": "alternating"},
            'Use `bf16=True` or `update_order="simultaneous"`.',
        ),
        (
            {"gradient_checkpointing_kwargs": {"use_reentrant": True}},
            "Gradient checkpointing must not be reentrant",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing.*` is deprecated:FutureWarning")
def test_values_that_cannot_work(given, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        arguments(**given)
    assert "\n" not in str(caught.value)


INF, NAN = float("inf"), float("nan")
NUMBERS = {
    "learning_rate": ("must be a number of at least 0.", [INF, -INF, NAN, -1e-3, "1e-3", None]),
    "weight_decay": ("must be a number of at least 0.", [INF, NAN, -0.1, "1e-2", None]),
    "adapter_learning_rate": ("must be a number of at least 0 or None.", [INF, NAN, -1.0]),
    "embedding_learning_rate": ("must be a number of at least 0 or None.", [INF, NAN, -1.0]),
    "inner_learning_rate": ("must be a number of at least 0 or None.", [INF, NAN, -1.0]),
    "adam_beta1": ("must be at least 0 and under 1.", [1.0, 1.5, -0.1, INF, NAN, "0.9"]),
    "adam_beta2": ("must be at least 0 and under 1.", [1.0, 1.5, -0.1, INF, NAN, "1e-1"]),
    "adam_epsilon": ("must be a positive number.", [0, 0.0, -1e-8, INF, NAN, "1e-8"]),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, bad) in NUMBERS.items() for value in bad]
)
def test_a_number_that_cannot_train_is_refused(name, value):
    rule, _ = NUMBERS[name]
    with pytest.raises(ConfigurationError) as caught:
        arguments(**{name: value})

    found = str(caught.value)
    assert found.startswith(f"`{name}` ")
    assert f"{rule} Found {value!r}." in found
    assert ("It must be finite." in found) == (value == INF)
    assert ("YAML reads 1e-3 as text" in found) == isinstance(value, str)


@pytest.mark.parametrize(
    "given",
    [
        {"learning_rate": 0, "weight_decay": 0},
        {"adapter_learning_rate": 0.0, "inner_learning_rate": 0.0},
        {"adam_beta1": 0.0, "adam_beta2": 0, "adam_epsilon": 1e-30},
        {"max_grad_norm": 0},
        {"max_grad_norm": INF},
    ],
)
def test_numbers_at_the_edge_are_taken_as_they_are(given):
    found = vars(arguments(**given))
    assert {name: found[name] for name in given} == given


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing.*` is deprecated:FutureWarning")
def test_gradient_checkpoints_are_not_reentrant():
    found = arguments(gradient_checkpointing=True)
    given = found.gradient_checkpointing_kwargs or {
        "use_reentrant": False
    }  # the default of transformers 5
    assert given["use_reentrant"] is False
    assert dataclasses.replace(found, seed=3).gradient_checkpointing


def parser() -> HfArgumentParser:
    return HfArgumentParser(MetaAdapterTrainingArguments)


COMMAND_LINE = """--output_dir unused --report_to none --use_cpu True --preset paper
    --lookahead shared --inner_learning_rate 0.5 --adapter_learning_rate 1e-3
    --meta_batch_size 4 --meta_every 2 --max_indirect_ratio 0.5 --sampling_alpha 0.3
    --skip_nonfinite_steps 2 --sparse_head false --languages_per_pass 3"""
WRITTEN = {
    **METHOD,
    **PAPER,
    "preset": "paper",
    "lookahead": "shared",
    "inner_learning_rate": 0.5,
    "adapter_learning_rate": 1e-3,
    "meta_batch_size": 4,
    "meta_every": 2,
    "max_indirect_ratio": 0.5,
    "sampling_alpha": 0.3,
    "skip_nonfinite_steps": 2,
    "sparse_head": False,
    "languages_per_pass": 3,
}


def test_parses_a_command_line():
    (found,) = parser().parse_args_into_dataclasses(COMMAND_LINE.split())
    assert found.method() == WRITTEN
    assert (type(found.meta_batch_size), type(found.adapter_learning_rate)) == (int, float)


def test_parses_a_file(tmp_path):
    given = {name: value for name, value in WRITTEN.items() if value is not None}
    lines = [f"{name}: {json.dumps(value)}" for name, value in given.items()]
    (tmp_path / "run.yaml").write_text(
        "\n".join(["output_dir: unused", "report_to: none", "use_cpu: true", *lines])
    )
    (found,) = parser().parse_yaml_file(str(tmp_path / "run.yaml"))
    assert found.method() == WRITTEN


def test_a_file_can_switch_the_fixed_rate_of_the_virtual_step_off(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "output_dir: unused\nreport_to: none\nuse_cpu: true\ninner_learning_rate: null\n"
    )
    (found,) = parser().parse_yaml_file(str(tmp_path / "run.yaml"))
    assert found.inner_learning_rate is None


def test_the_help_explains_every_argument():
    shown = parser().format_help()
    for name in METHOD:
        assert re.search(rf"--{name} .*\n?\s+\S", shown), name


def test_survives_json():
    found = arguments(preset="paper", meta_every=2)
    again = json.loads(json.dumps(found.to_dict()))
    assert {name: again[name] for name in METHOD} == found.method()
    assert json.loads(found.to_json_string())["meta_gradient"] == "exact"
    assert found.to_sanitized_dict()["preset"] == "paper"


def test_a_copy_differs_in_what_was_replaced():
    found = arguments(preset="paper", learning_rate=0.5)
    copy = dataclasses.replace(found, meta_every=3, seed=7)
    assert copy.method() == {**found.method(), "meta_every": 3}
    assert (copy.seed, copy.learning_rate) == (7, 0.5)
    with pytest.raises(ConfigurationError, match="`meta_every`"):
        dataclasses.replace(found, meta_every=0)


def test_the_old_name_of_the_exponent_still_works_and_warns():
    with pytest.warns(
        FutureWarning, match=r"`sampling_temperature` is deprecated.*`sampling_alpha=0.3`"
    ):
        found = arguments(sampling_temperature=0.3)
    assert found.sampling_alpha == 0.3
    assert "sampling_temperature" not in found.method()

    copy = dataclasses.replace(found, seed=3)  # without a second warning
    assert copy.sampling_alpha == 0.3
    assert json.loads(found.to_json_string())["sampling_temperature"] is None


@pytest.mark.filterwarnings("ignore:`sampling_temperature` is deprecated:FutureWarning")
def test_both_names_of_the_exponent_must_agree():
    assert arguments(sampling_alpha=0.3, sampling_temperature=0.3).sampling_alpha == 0.3
    with pytest.raises(ConfigurationError, match=r"both must be equal. Found 0.2 and 0.3"):
        arguments(sampling_alpha=0.3, sampling_temperature=0.2)
    with pytest.raises(ConfigurationError, match=r"`sampling_alpha` is the exponent α.*Found 5"):
        arguments(sampling_temperature=5)


@pytest.mark.filterwarnings("ignore:`sampling_temperature` is deprecated:FutureWarning")
def test_a_command_line_may_use_the_old_name_of_the_exponent():
    given = "--output_dir unused --report_to none --use_cpu True --sampling_temperature 0.3"
    (found,) = parser().parse_args_into_dataclasses(given.split())
    assert found.sampling_alpha == 0.3


def test_the_options_are_those_of_the_outer_step():
    names = {field.name for field in dataclasses.fields(MetaAdapterTrainingArguments)}
    assert {field.name for field in dataclasses.fields(MetaOptions)} <= names
