"""Every argument of `transformers.TrainingArguments` works, is refused by name, or is harmless."""

from __future__ import annotations

import copy
import dataclasses
import re
import warnings

import pytest
import torch
from transformers import EarlyStoppingCallback as Stopping
from transformers import Seq2SeqTrainingArguments, TrainingArguments

from hf_meta_adapters import MetaAdapterTrainingArguments
from hf_meta_adapters.errors import ConfigurationError
from tests.training import make_model, make_trainer, moved, snapshot, texts
from tests.unit.training.inherited_arguments import ARGUMENTS, HARMLESS, REFUSED, WORKS

FIELDS = {field.name: field for field in dataclasses.fields(TrainingArguments)}

TOKENS = "cannot be counted: a step holds batches of several languages and of two roles. Found"
LIGER = "has no effect: its kernels replace parts of a `PreTrainedModel`, not of a wrapper. Found"
APEX = "must not be Apex, which scales the one loss of a step; an outer step has several. Found"
REENTRANT = "Gradient checkpointing must not be reentrant"
OPTIMIZER = "LOMO, GaLore and APOLLO do not. Found"

GIVEN = [
    ("train_sampling_strategy", "batch_rebalance", 'Use "group_by_length" to save padding.'),
    ("dataloader_drop_last", True, "would leave rows out of evaluation. Found True."),
    ("dataloader_in_order", False, "must be True: which rows a step holds would depend"),
    ("per_gpu_train_batch_size", 4, "Found 4. Use `per_device_train_batch_size`."),
    ("optim_target_modules", ["attn"], "is for GaLore and APOLLO"),
    ("average_tokens_across_devices", False, "the mean over the labels of all devices"),
    ("torch_empty_cache_steps", 5, "Found 5. Leave it out, and pass a callback"),
    ("include_num_input_tokens_seen", True, f"{TOKENS} True."),
    ("include_num_input_tokens_seen", "non_padding", f"{TOKENS} 'non_padding'."),
    ("include_tokens_per_second", True, f"{TOKENS} True."),
    ("use_liger_kernel", True, f"{LIGER} True."),
    ("liger_kernel_config", {"rope": True}, f"{LIGER} {{'rope': True}}."),
    ("save_safetensors", False, "no weights are written as a pickle. Found False."),
    ("past_index", 0, "is for models that carry a state from batch to batch"),
    ("jit_mode_eval", True, "would stay in the language that it was traced in"),
    ("use_legacy_prediction_loop", True, "languages are scored in the present loop"),
    ("half_precision_backend", "apex", f"{APEX} 'apex'."),
    ("fp16_backend", "apex", f"{APEX} 'apex'."),
    ("mp_parameters", "partitions=2", "is of SageMaker's model parallelism"),
    ("deepspeed", "zero2.json", "Found DeepSpeed"),
    ("optim", "lomo", f"{OPTIMIZER} 'lomo'."),
    ("optim", "galore_adamw_layerwise", f"{OPTIMIZER} 'galore_adamw_layerwise'."),
    ("optim", "apollo_adamw", f"{OPTIMIZER} 'apollo_adamw'."),
    ("max_grad_norm", -1.0, "must be a number of at least 0. Found -1.0. Use 0 for no clipping."),
    ("max_grad_norm", float("nan"), "Found nan. Use 0 for no clipping."),
    ("max_grad_norm", None, "Found None. Use 0 for no clipping."),
    (
        "accelerator_config",
        {"split_batches": True},
        "`accelerator_config.split_batches` has no effect",
    ),
    (
        "accelerator_config",
        {"dispatch_batches": True},
        "`accelerator_config.dispatch_batches` has no effect",
    ),
    ("gradient_checkpointing_kwargs", {"use_reentrant": True}, REENTRANT),
    ("activation_checkpointing_kwargs", {"use_reentrant": True}, REENTRANT),
]
PRESENT = [case for case in GIVEN if case[0] in FIELDS]


def test_somebody_has_decided_about_every_argument():
    undecided = sorted(set(FIELDS) - set(ARGUMENTS))
    assert not undecided, (
        f"transformers has the new arguments {undecided}. Read what `transformers.Trainer` does"
        " with each of them, and whether `MetaAdapterTrainer` still goes that way. Then say so in"
        f' `tests/unit/training/inherited_arguments.py`: "{WORKS}"; "{REFUSED}", with a rule in'
        f' `hf_meta_adapters/training/_inherited_arguments.py`; or "{HARMLESS}" and why.'
    )


def test_every_decision_is_one_of_three():
    for name, decision in ARGUMENTS.items():
        is_harmless = decision.startswith(HARMLESS) and len(decision) > len(HARMLESS)
        assert decision in (WORKS, REFUSED) or is_harmless, name


def test_every_refusal_is_tried():
    refused = {name for name, decision in ARGUMENTS.items() if decision == REFUSED}
    assert {name for name, _, _ in GIVEN} == refused


@pytest.mark.parametrize(("name", "value", "message"), PRESENT)
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing.*` is deprecated:FutureWarning")
def test_what_cannot_be_honoured_is_refused_by_name(name, value, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        MetaAdapterTrainingArguments("unused", use_cpu=True, report_to="none", **{name: value})

    found = str(caught.value)
    assert "\n" not in found
    if message != REENTRANT and name != "deepspeed":
        assert found.startswith(f"`{name}")


@pytest.mark.parametrize("name", sorted({name for name, _, _ in PRESENT}))
def test_the_default_is_never_refused(name):
    field = FIELDS[name]
    given = {name: field.default}
    found = MetaAdapterTrainingArguments("unused", use_cpu=True, report_to="none", **given)

    # transformers has changed some of the values by now, and a copy is checked again
    dataclasses.replace(found, seed=3)


def trained(folder, **given):
    given = {"max_steps": 3, "fidelity_check_steps": 0, "logging_strategy": "no", **given}
    trainer = make_trainer(folder, make_model(), **given)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return snapshot(trained(tmp_path_factory.mktemp("default")).model)


def test_two_runs_with_the_same_arguments_are_equal(tmp_path, weights):
    assert not moved(weights, trained(tmp_path).model)


ACTING = {
    "learning_rate": {"learning_rate": 2e-2},
    "max_steps": {"max_steps": 2},
    "num_train_epochs": {"max_steps": -1, "num_train_epochs": 2},
    "per_device_train_batch_size": {"per_device_train_batch_size": 3},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 2},
    "lr_scheduler_type": {"lr_scheduler_type": "constant"},
    "lr_scheduler_kwargs": {
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "lr_scheduler_type": "cosine",
    },
    "warmup_steps": {"warmup_steps": 2},
    "optim": {"optim": "adafactor"},
    "optim_args": {"optim": "rmsprop", "optim_args": "alpha=0.5"},
    "weight_decay": {"weight_decay": 0.5},
    "adam_beta1": {"adam_beta1": 0.5},
    "adam_beta2": {"adam_beta2": 0.5},
    "adam_epsilon": {"adam_epsilon": 1e-2},
    "max_grad_norm": {"max_grad_norm": 1e-3},
    "label_smoothing_factor": {"label_smoothing_factor": 0.3},
    "neftune_noise_alpha": {"neftune_noise_alpha": 5.0},
    "bf16": {"bf16": True},
    "seed": {"seed": 3},
    "data_seed": {"data_seed": 3},
}
PARTNERS = {
    "lr_scheduler_kwargs": {"lr_scheduler_type": "cosine"},
    "optim_args": {"optim": "rmsprop"},
    "num_train_epochs": {"max_steps": -1, "num_train_epochs": 1},
}
"""What the run without the argument has as well, where that is not the default."""


if "train_sampling_strategy" in FIELDS:
    ACTING["train_sampling_strategy"] = {"train_sampling_strategy": "sequential"}
else:
    # transformers 4 reads them for optimizers of other packages only
    del ACTING["optim_args"]


@pytest.mark.parametrize("name", ACTING)
def test_an_argument_of_training_acts(tmp_path, weights, name):
    before = weights
    if name in PARTNERS:
        before = snapshot(trained(tmp_path / "before", **PARTNERS[name]).model)

    # both θ and every φ
    after = trained(tmp_path / "after", **ACTING[name]).model
    assert moved(before, after) == {"shared", *after.languages}


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"logging_steps": 2}, [2]),
        ({"logging_steps": 2, "logging_first_step": True}, [1, 2]),
        ({"logging_strategy": "epoch", "max_steps": 4}, [4]),
    ],
)
def test_the_log_has_the_lines_asked_for(tmp_path, given, steps):
    trainer = trained(tmp_path, **{"logging_strategy": "steps", **given})
    found = [line["step"] for line in trainer.state.log_history if "loss" in line]
    assert found == steps


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"eval_strategy": "steps", "eval_steps": 2}, [2, 4]),
        ({"eval_strategy": "steps", "eval_steps": 1, "eval_delay": 2}, [2, 3, 4]),
        ({"eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True}, [0, 2, 4]),
    ],
)
def test_evaluation_takes_place_when_asked_for(tmp_path, given, steps):
    # 4 steps: transformers 5 evaluates after the last one in any case
    trainer = trained(tmp_path, eval_dataset=texts(3), max_steps=4, **given)
    found = [line["step"] for line in trainer.state.log_history if "eval_loss" in line]
    assert found == steps


def test_states_of_callbacks_are_restored_where_asked_for(tmp_path):
    def run(steps, checkpoint=None, **given):
        given |= {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "same"}
        given |= {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1}
        trainer = make_trainer(
            tmp_path,
            make_model(),
            eval_dataset=texts(3),
            callbacks=[Stopping(early_stopping_patience=9)],
            max_steps=steps,
            compute_metrics=lambda _: {"same": 1.0},  # no step makes it better
            **given,
        )
        trainer.train(resume_from_checkpoint=checkpoint)

        # transformers puts a new one in the place of one that it restores
        found = [one for one in trainer.callback_handler.callbacks if isinstance(one, Stopping)]
        return [one.early_stopping_patience_counter for one in found]

    assert run(3) == [2]
    assert run(4, str(tmp_path / "checkpoint-3")) == [1]
    restored = {"restore_callback_states_from_checkpoint": True}
    assert run(4, str(tmp_path / "checkpoint-3"), **restored) == [3]


@pytest.mark.parametrize("ignores", [True, False])
def test_a_resumed_epoch_may_begin_again(tmp_path, ignores):
    first = trained(tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    trainer = make_trainer(tmp_path, make_model(), max_steps=4, ignore_data_skip=ignores)
    with warnings.catch_warnings():
        # which says that the argument is another one from here on
        warnings.filterwarnings("ignore", "The run resumes from", UserWarning)
        trainer.train(resume_from_checkpoint=True)

    rows = [run.seen[0]["train"]["da"]["input_ids"] for run in (first, trainer)]
    assert torch.equal(*rows) == ignores


def test_metrics_are_given_what_they_ask_for(tmp_path):
    asked = []

    def metric(prediction, compute_result):
        asked.append((prediction.inputs is not None, prediction.losses is not None, compute_result))
        return {"rows": 1.0}

    trainer = make_trainer(
        tmp_path,
        make_model(),
        eval_dataset=texts(3),
        compute_metrics=metric,
        include_for_metrics=["inputs", "loss"],
        batch_eval_metrics=True,
        per_device_eval_batch_size=4,
    )
    assert trainer.evaluate()["eval_rows"] == 1.0

    # 8 rows of each of three languages, in two batches
    assert asked == 3 * [(True, True, False), (True, True, True)]


@pytest.mark.skipif(
    "dataloader_multiprocessing_context" not in FIELDS, reason="transformers 4 does not have it"
)
def test_workers_are_started_as_asked_for(tmp_path):
    trainer = make_trainer(
        tmp_path,
        make_model(),
        dataloader_num_workers=1,
        dataloader_multiprocessing_context="forkserver",
    )
    context = trainer.get_train_dataloader().multiprocessing_context
    assert context.get_start_method() == "forkserver"


def test_evaluation_by_itself_is_in_the_precision_asked_for(tmp_path):
    trainer = make_trainer(tmp_path, make_model(), eval_dataset=texts(3), bf16_full_eval=True)
    trainer.evaluate()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.bfloat16}


OF_SEQ2SEQ = sorted(
    {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)} - FIELDS.keys()
)


@pytest.mark.parametrize("value", [True, False, None])
@pytest.mark.parametrize("name", OF_SEQ2SEQ)
def test_an_argument_of_the_trainer_of_encoder_decoders_is_refused(name, value, tmp_path):
    with pytest.raises(ConfigurationError, match=rf"^`{name}` .*Found {value}\. Leave it out"):
        MetaAdapterTrainingArguments(str(tmp_path), **{name: value})


def test_a_subclass_may_have_an_argument_of_that_name(tmp_path):
    @dataclasses.dataclass
    class Mine(MetaAdapterTrainingArguments):
        predict_with_generate: bool = False

    given = Mine(str(tmp_path), predict_with_generate=True, report_to="none")
    assert given.predict_with_generate
    assert copy.deepcopy(given).predict_with_generate
    assert dataclasses.replace(given, seed=7).predict_with_generate


def test_an_unknown_argument_is_still_an_error(tmp_path):
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rat'"):
        MetaAdapterTrainingArguments(str(tmp_path), learning_rat=1.0)
