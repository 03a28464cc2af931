"""Losses of one language on any torch module, and the state that a diagnostic must leave as it found it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.errors import ConfigurationError, DataError, NonFiniteLossError

__all__ = [
    "Batches",
    "LossFunction",
    "evaluate_loss",
    "iterate_batches",
    "preserved_state",
    "select_parameters",
]

Batches: TypeAlias = Batch | Iterable[Batch]
"""The batches of one language: one, or an iterable of several."""

LossFunction: TypeAlias = Callable[[nn.Module, Batch], Tensor]
"""A function that takes the model and a batch, and returns the scalar mean loss."""


def evaluate_loss(
    model: nn.Module, batch: Batch, language: Language, loss_function: LossFunction | None = None
) -> torch.Tensor:
    """Return the loss `L_l` of one batch, with the model routed to the language `l`.

    Args:
        model: Called as `model(**batch)`, inside `model.use_language(language)` where the model has
            that method.
        batch: Keyword arguments of the forward pass; its tensors are moved to the device of the
            model.
        language: The language of the batch.
        loss_function: Called as `loss_function(model, batch)` instead.

    Returns:
        The scalar loss, with its graph.

    Raises:
        DataError: If the model returns no loss.
        NonFiniteLossError: If the loss is NaN or infinite.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    inputs = {
        key: value.to(device) if isinstance(value, Tensor) else value
        for key, value in batch.items()
    }
    with _routed(model, language):
        loss = (
            loss_function(model, inputs) if loss_function is not None else _loss_of(model(**inputs))
        )
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise DataError(
            f"A diagnostic needs a scalar loss from `model(**batch)`. Found {_describe(loss)} for"
            f" language {language!r}. Put `labels` into the batch, or pass `loss_function=lambda"
            " model, batch: ...`."
        )
    if not torch.isfinite(loss):
        raise NonFiniteLossError(
            f"The loss must be finite. Found {loss.item()} for language {language!r}. Look for"
            " empty label sets, overflow in half precision, or a model that has diverged."
        )
    return loss.reshape(())


def iterate_batches(batches: Batches, language: Language) -> Iterator[Batch]:
    """Yield the batches of one language, be it one batch or an iterable of several.

    Args:
        batches: One mapping, or an iterable of mappings.
        language: Their language, for the message.

    Yields:
        Each batch.

    Raises:
        DataError: If there is none, or one is not a mapping.
    """
    found = 0
    for batch in (batches,) if isinstance(batches, Mapping) else batches:
        if not isinstance(batch, Mapping):
            raise DataError(
                "A batch must be a mapping from argument name to tensor. Found"
                f" `{type(batch).__name__}` for language "
                f'{language!r}. Write for example {{"{language}": {{"input_ids": ..., "labels":'
                " ...}}."
            )
        found += 1
        yield batch
    if not found:
        raise DataError(
            f"Every language must have at least one batch. Found none for {language!r}. Leave the"
            " language out, or give it data (an iterator that was used before is empty)."
        )


def select_parameters(
    model: nn.Module, parameters: str | Iterable[str] | None = None
) -> dict[str, nn.Parameter]:
    """Return the parameters that a diagnostic looks at, by name.

    Args:
        model: Any module.
        parameters: A regular expression searched for in the names, or the names. By default the
            model's `shared_parameters()` where it has that method, else everything with
            `requires_grad`.

    Returns:
        The parameters, by their name in `named_parameters()`.

    Raises:
        ConfigurationError: If nothing is selected, or a name is unknown.
    """
    named = dict(model.named_parameters())
    if parameters is None:
        shared = getattr(model, "shared_parameters", None)
        chosen = (
            dict(shared())
            if callable(shared)
            else {n: p for n, p in named.items() if p.requires_grad}
        )
    elif isinstance(parameters, str):
        chosen = {name: p for name, p in named.items() if re.search(parameters, name)}
    else:
        names = list(parameters)
        if unknown := [name for name in names if name not in named]:
            raise ConfigurationError(
                f"`parameters` must name parameters of the model. Found {unknown[0]!r}, which is"
                f" not one of its {len(named)} names, such as {list(named)[:3]}. Write names of"
                " `named_parameters()`."
            )
        chosen = {name: named[name] for name in names}
    if not chosen:
        raise ConfigurationError(
            f"`parameters` must select at least one parameter. Found none with {parameters!r} among"
            f" {len(named)} "
            f"names such as {list(named)[:3]}. Write a regular expression that matches some, for"
            " example "
            r'"layer\.\d+\.".'
        )
    return chosen


@contextmanager
def preserved_state(
    model: nn.Module, differentiable: Iterable[nn.Parameter] = ()
) -> Iterator[None]:
    """Put the model into evaluation mode, and leave modes, `requires_grad` and random states as they were found.

    Evaluation mode, because the noise of dropout lowers every cosine between gradients.

    Args:
        model: Any module.
        differentiable: Parameters that require a gradient meanwhile, frozen or not.

    Yields:
        Nothing.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in differentiable]
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        try:
            model.eval()
            for parameter, _ in flags:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
            for module, training in modes:
                module.training = training


def _routed(model: nn.Module, language: Language) -> AbstractContextManager[Any]:
    use_language = getattr(model, "use_language", None)
    return use_language(language) if callable(use_language) else nullcontext()


def _loss_of(output: Any) -> Any:
    if isinstance(output, Mapping):
        return output.get("loss")
    if isinstance(output, tuple | list):
        return output[0] if output else None
    return output if isinstance(output, Tensor) else getattr(output, "loss", None)


def _describe(value: Any) -> str:
    return (
        f"a tensor of shape {tuple(value.shape)}"
        if isinstance(value, Tensor)
        else f"`{type(value).__name__}`"
    )
