"""Losses of one language on any torch module, and the state that a diagnostic must not change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.anatomy.passes import device_of, evaluation_mode, routed_to
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
"""The batches of one language: a single one, or an iterable."""

LossFunction: TypeAlias = Callable[[nn.Module, Batch], Tensor]
"""A function that takes the model and a batch, and returns the scalar mean loss."""


def evaluate_loss(
    model: nn.Module, batch: Batch, language: Language, loss_function: LossFunction | None = None
) -> Tensor:
    """Return the loss `L_l` of one batch, with the model routed to the language `l`.

    Args:
        model: Called as `model(**batch)`, inside `model.use_language(language)` if the model has
            that method.
        batch: Keyword arguments of the forward pass. Tensors are moved to the device of the model.
        language: The language of the batch.
        loss_function: Called as `loss_function(model, batch)` in place of `model(**batch)`.

    Returns:
        The scalar loss, with its graph.

    Raises:
        DataError: If the model returns no loss.
        NonFiniteLossError: If the loss is NaN or infinite.
    """
    # Collators make batches on the CPU.
    device = device_of(model)
    inputs: dict[str, object] = {}
    for name, value in batch.items():
        if isinstance(value, Tensor):
            value = value.to(device)
        inputs[name] = value

    compute: Callable[[nn.Module, Batch], object] = loss_function or _loss_from_output
    with routed_to(model, language):
        loss = compute(model, inputs)

    # One element rather than no dimension: some losses have the shape (1,).
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise DataError(
            f"A diagnostic needs a scalar loss from `model(**batch)`. Found {_describe(loss)} for"
            f" language {language!r}. Include `labels` in the batch, or pass `loss_function=lambda"
            " model, batch: ...`."
        )
    if not torch.isfinite(loss):
        raise NonFiniteLossError(
            f"The loss must be finite. Found {loss.item()} for language {language!r}. Check for"
            " empty label sets, overflow in half precision, or a model that has diverged."
        )

    return loss.reshape(())


def iterate_batches(batches: Batches, language: Language) -> Iterator[Batch]:
    """Yield the batches of one language.

    Args:
        batches: A mapping, or an iterable of mappings.
        language: Their language, for the message.

    Yields:
        Each batch.

    Raises:
        DataError: If there is none, or one is not a mapping.
    """
    if isinstance(batches, Mapping):
        batches = (batches,)

    # An iterator has no length: only reading it shows that it was empty.
    is_empty = True
    for batch in batches:
        if not isinstance(batch, Mapping):
            raise DataError(
                "A batch must be a mapping from argument name to tensor. Found"
                f" `{type(batch).__name__}` for language {language!r}. Use for example"
                f' {{"{language}": {{"input_ids": ..., "labels": ...}}}}.'
            )
        is_empty = False
        yield batch

    if is_empty:
        raise DataError(
            f"Every language must have at least one batch. Found none for {language!r}. Leave the"
            " language out, or give it data (an iterator that has been read is empty)."
        )


def select_parameters(
    model: nn.Module, parameters: str | Iterable[str] | None = None
) -> dict[str, nn.Parameter]:
    """Return the parameters that a diagnostic examines, by name.

    Args:
        model: Any module.
        parameters: A regular expression to search for in the names, or the names. By default the
            model's `shared_parameters()` if it has that method, otherwise everything with
            `requires_grad`.

    Returns:
        The parameters, by their name in `named_parameters()`.

    Raises:
        ConfigurationError: If nothing is selected, or a name is unknown.
    """
    named = dict(model.named_parameters())

    if parameters is None:
        selected = _default_parameters(model)
    elif isinstance(parameters, str):
        selected = {name: p for name, p in named.items() if re.search(parameters, name)}
    else:
        names = list(parameters)
        unknown = [name for name in names if name not in named]
        if unknown:
            raise ConfigurationError(
                f"`parameters` must name parameters of the model. Found {unknown[0]!r}, which is"
                f" not one of its {len(named)} names, such as {list(named)[:3]}. Use names of"
                " `named_parameters()`."
            )
        selected = {name: named[name] for name in names}

    if not selected:
        raise ConfigurationError(
            f"`parameters` must select at least one parameter. Found none with {parameters!r} among"
            f" {len(named)} names such as {list(named)[:3]}. Use a regular expression that matches"
            r' some, for example "layer\.\d+\.".'
        )
    return selected


@contextmanager
def preserved_state(
    model: nn.Module, differentiable: Iterable[nn.Parameter] = ()
) -> Iterator[None]:
    """Put a model into evaluation mode, then restore modes, `requires_grad` and random states.

    Evaluation mode, because the noise of dropout lowers every cosine between gradients.

    Args:
        model: Any module.
        differentiable: Parameters that require a gradient meanwhile, frozen or not.

    Yields:
        Nothing.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in differentiable]
    # The generators of other devices are not touched, and forking them would be slow.
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})

    with torch.random.fork_rng(devices=devices), evaluation_mode(model):
        try:
            for parameter, _ in flags:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)


def _default_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return θ of a model with language adapters, or what is trained of any other model."""
    shared_parameters = getattr(model, "shared_parameters", None)
    if callable(shared_parameters):
        return dict(shared_parameters())

    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _loss_from_output(model: nn.Module, batch: Batch) -> object:
    """Return the loss in the output of a model, whatever form the output has."""
    output = model(**batch)

    # A `ModelOutput` of transformers is a mapping as well; it has no entry for a missing loss.
    if isinstance(output, Mapping):
        return output.get("loss")

    if isinstance(output, (tuple, list)):
        return next(iter(output), None)

    if isinstance(output, Tensor):
        return output
    return getattr(output, "loss", None)


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"

    return f"`{type(value).__name__}`"
