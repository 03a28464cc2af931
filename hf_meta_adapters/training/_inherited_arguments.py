"""Arguments of `transformers.TrainingArguments` that the outer step cannot honour are refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from hf_meta_adapters.errors import ConfigurationError


@dataclass(frozen=True)
class _Rule:
    """The values of an argument that can be honoured.

    Args:
        accepted: These values; the first one is the default.
        reason: Why there are no others; it continues a sentence that begins with the name.
        instead: What to do.
    """

    accepted: tuple[object, ...]
    reason: str
    instead: str


_STRATEGIES = ("random", "sequential", "group_by_length")
_TOKENS = "cannot be counted: a step holds batches of several languages and of two roles"
_TOKENS_INSTEAD = "Leave it out, and read `examples_seen_<language>` and `examples_per_second`."
_LIGER = "has no effect: its kernels replace parts of a `PreTrainedModel`, not of a wrapper"
_LIGER_INSTEAD = (
    "Leave it out; `sparse_head=True` saves the memory of the logits, and `torch_compile=True`"
    " fuses the layers."
)
_PROJECTIONS = "is for GaLore and APOLLO, whose states do not have the shape of the parameters"
_APEX = "must not be Apex, which scales the one loss of a step; an outer step has several"
_APEX_INSTEAD = "Leave it out: `fp16=True` and `bf16=True` use torch's own mixed precision."
_EXPECTED_OPTIMIZER = 'Use `optim="adamw_torch_fused"`, `"adafactor"` or an 8-bit one.'

_RULES: Mapping[str, _Rule] = {
    "train_sampling_strategy": _Rule(
        _STRATEGIES,
        'must be "random", "sequential" or "group_by_length": which rows a step holds must not'
        " depend on the number of processes",
        'Use "group_by_length" to save padding.',
    ),
    "dataloader_drop_last": _Rule(
        (False,),
        "has no effect in training, where all batches of a language are full, and would leave rows"
        " out of evaluation",
        "Leave it out.",
    ),
    "dataloader_in_order": _Rule(
        (True,),
        "must be True: which rows a step holds would depend on the speed of the workers, and a"
        " resumed run would read others",
        "Leave it out; more `dataloader_num_workers` make the data faster.",
    ),
    "per_gpu_train_batch_size": _Rule(
        (None,),
        "is the old name of `per_device_train_batch_size`, and checkpoints record only the new one",
        "Use `per_device_train_batch_size`.",
    ),
    "optim_target_modules": _Rule((None,), _PROJECTIONS, f"Leave it out. {_EXPECTED_OPTIMIZER}"),
    "average_tokens_across_devices": _Rule(
        (True,),
        "must be True: the loss of a step is the mean over the labels of all devices",
        "Leave it out.",
    ),
    "torch_empty_cache_steps": _Rule(
        (None,),
        "has no effect: the outer step replaces the training step that empties the cache",
        "Leave it out, and pass a callback whose `on_step_end` calls `torch.cuda.empty_cache()`;"
        " `cpu_offload=True` saves memory.",
    ),
    "include_num_input_tokens_seen": _Rule(("no", False), _TOKENS, _TOKENS_INSTEAD),
    "include_tokens_per_second": _Rule((False,), _TOKENS, _TOKENS_INSTEAD),
    "use_liger_kernel": _Rule((False,), _LIGER, _LIGER_INSTEAD),
    "liger_kernel_config": _Rule((None,), _LIGER, _LIGER_INSTEAD),
    "save_safetensors": _Rule(
        (True,), "must be True: no weights are written as a pickle", "Leave it out."
    ),
    "past_index": _Rule(
        (-1,),
        "is for models that carry a state from batch to batch, and the batches of a step are of"
        " different languages",
        "Leave it out.",
    ),
    "jit_mode_eval": _Rule(
        (False,),
        "cannot work: a traced model would stay in the language that it was traced in",
        "Leave it out, or use `torch_compile=True`.",
    ),
    "use_legacy_prediction_loop": _Rule(
        (False,), "has no effect: languages are scored in the present loop", "Leave it out."
    ),
    "half_precision_backend": _Rule(("auto", "cpu_amp", "cuda_amp"), _APEX, _APEX_INSTEAD),
    "fp16_backend": _Rule(("auto", "cpu_amp", "cuda_amp"), _APEX, _APEX_INSTEAD),
    "mp_parameters": _Rule(
        ("",),
        "is of SageMaker's model parallelism, which has a training step of its own",
        "Leave it out, and launch the run with `--multi_gpu` (DDP).",
    ),
}
"""Name → rule. An argument that this release of transformers does not have is never looked up."""

_ACCELERATOR_RULES: Mapping[str, _Rule] = {
    "split_batches": _Rule(
        (False, None),
        "has no effect: `per_device_train_batch_size` counts the rows of a language on one device",
        "Leave it out, and divide `per_device_train_batch_size` by the number of devices.",
    ),
    "dispatch_batches": _Rule(
        (None, False),
        "has no effect: each process reads its own rows of a step",
        "Leave it out; a stream must be readable by every process.",
    ),
}

# They update parameters in hooks of a backward pass, or need `optim_target_modules`.
_OPTIMIZERS = ("lomo", "adalomo", "galore", "apollo")


_GENERATION = (
    "is of `Seq2SeqTrainer`: `MetaAdapterTrainer` scores languages by losses and logits, and"
    " generates no text",
    "Leave it out, and generate with `model.generate(..., language=...)` after training or in a"
    " callback.",
)
_OF_SEQ2SEQ: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        (
            "predict_with_generate",
            "generation_max_length",
            "generation_num_beams",
            "generation_config",
        ),
        _GENERATION,
    ),
    "sortish_sampler": (
        "is of `Seq2SeqTrainer`, and groups rows by length",
        'Leave it out, and use `train_sampling_strategy="group_by_length"`; with transformers 4,'
        " `group_by_length=True`.",
    ),
}
"""Name → reason and what to do, for the arguments that only `Seq2SeqTrainingArguments` has."""


def check_known(given: Mapping[str, object], known: Collection[str]) -> None:
    """Refuse arguments of `Seq2SeqTrainingArguments`, which look as if they were inherited.

    Args:
        given: name → value of the arguments, before there are any.
        known: The names of the arguments that there are; a subclass may have more.

    Raises:
        ConfigurationError: Naming the argument, the reason, and what to use instead.
    """
    for name, (reason, instead) in _OF_SEQ2SEQ.items():
        if name in given and name not in known:
            _check(name, given[name], _Rule((), reason, instead))


def check_inherited(given: Mapping[str, object]) -> None:
    """Refuse inherited arguments that would have no effect, or a wrong one.

    Args:
        given: name → value of the arguments, as they were given.

    Raises:
        ConfigurationError: Naming the argument, the reason, and what to use instead.
    """
    for name, rule in _RULES.items():
        if name in given:
            _check(name, given[name], rule)

    optimizer = given["optim"]
    if isinstance(optimizer, str) and optimizer.startswith(_OPTIMIZERS):
        raise ConfigurationError(
            "`optim` must be an optimizer that reads all gradients after the step, and keeps a"
            " state of the shape of the parameters. LOMO, GaLore and APOLLO do not. Found"
            f" {optimizer!r}. {_EXPECTED_OPTIMIZER}"
        )


def check_accelerator_config(config: object) -> None:
    """Refuse settings of Accelerate's data loaders that would have no effect in training.

    Args:
        config: The `AcceleratorConfig` of the arguments.

    Raises:
        ConfigurationError: Naming the setting, the reason, and what to use instead.
    """
    given = vars(config)
    for name, rule in _ACCELERATOR_RULES.items():
        _check(f"accelerator_config.{name}", given[name], rule)


def _check(name: str, value: object, rule: _Rule) -> None:
    if value not in rule.accepted:
        raise ConfigurationError(f"`{name}` {rule.reason}. Found {value!r}. {rule.instead}")
