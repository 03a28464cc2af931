"""What a Trainer is called with besides model, arguments and data, checked before anything else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NoReturn

from hf_meta_adapters.errors import ConfigurationError

_ONE_MODEL = (
    "adapters, the roles of the data and the rates of the optimizer belong to one model. In a"
    " search for hyperparameters, make a new model, new arguments and a new Trainer for each trial."
)
_REFUSED = {
    "model_init": f"must be left out, and a `model` passed: {_ONE_MODEL}",
    "tokenizer": "is the old name of `processing_class`. Use the new one.",
}
"""Argument of `transformers.Trainer` → what the message says of it."""

_FUNCTIONS = ("compute_metrics", "compute_loss_func", "preprocess_logits_for_metrics")


def check_call(given: Mapping[str, object], known: Collection[str]) -> None:
    """Check the arguments of the constructor that have no class of their own.

    Args:
        given: name → value.
        known: The parameters of the constructor itself: a subclass may have some of these names.

    Raises:
        ConfigurationError: Naming the argument, what was found, and what to write instead.
    """
    for name, reason in _REFUSED.items():
        if name not in known and given.get(name) is not None:
            raise ConfigurationError(f"`{name}` {reason}")

    for name in _FUNCTIONS:
        _check_function(name, given.get(name))
    _check_collator(given.get("data_collator"))

    callbacks = given.get("callbacks")
    if callbacks is not None and not isinstance(callbacks, list | tuple):
        raise ConfigurationError(
            "`callbacks` must be a list of callbacks. Found a"
            f" `{type(callbacks).__name__}`. Pass `callbacks=[...]`."
        )

    _check_pair(
        "optimizers",
        given.get("optimizers"),
        "an optimizer and a schedule",
        "Pass `optimizers=(optimizer, None)` for the schedule of the arguments.",
    )
    _check_pair(
        "optimizer_cls_and_kwargs",
        given.get("optimizer_cls_and_kwargs"),
        "a class and a dict",
        'Pass for example `optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.1})`.',
    )


def refuse_search() -> NoReturn:
    """Refuse `hyperparameter_search`.

    Raises:
        ConfigurationError: Always.
    """
    raise ConfigurationError(f"`hyperparameter_search` cannot be used: {_ONE_MODEL}")


def _check_function(name: str, function: object) -> None:
    if function is None or callable(function):
        return

    instead = f"Pass `{name}=` the function itself."
    if hasattr(function, "compute"):
        instead = f"Pass a function that calls its `compute`: `{name}=lambda prediction: ...`."
    raise ConfigurationError(
        f"`{name}` must be a function. Found a `{type(function).__name__}`. {instead}"
    )


def _check_collator(collator: object) -> None:
    if isinstance(collator, Mapping):
        raise ConfigurationError(
            "`data_collator` must be one function for the rows of all languages. Found a"
            f" `{type(collator).__name__}` of {list(collator)}. What differs by language (the"
            " tokenizer, or how texts are cut) belongs in the rows: tokenize them language by"
            " language, and pass the collator that pads them."
        )
    _check_function("data_collator", collator)


def _check_pair(name: str, pair: object, what: str, instead: str) -> None:
    if pair is None or (isinstance(pair, list | tuple) and len(pair) == 2):
        return
    raise ConfigurationError(
        f"`{name}` must be a pair of {what}. Found a `{type(pair).__name__}`. {instead}"
    )
