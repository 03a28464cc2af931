"""One language merged into the weights, and the proof that the plain model computes the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends import Backend
from hf_meta_adapters.backends.abilities import MergesLanguages
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling._probe import probe_inputs
from hf_meta_adapters.modeling._ties import loads_as_it_is, settle_ties

_TOLERANCES = {torch.bfloat16: 5e-2, torch.float16: 2e-2}
_TOLERANCE = 1e-3
"""The largest relative difference that rounding makes; TensorFloat-32 accounts for most of it."""


class Routed(Protocol):
    """A model with languages, as far as merging runs it."""

    backend: Backend

    def forward(self, language: Language, **inputs: object) -> object:
        """Run the model in a language."""

    def modules(self) -> Iterator[nn.Module]:
        """All modules."""


def merge(
    model: Routed, language: Language, adapter: str, probe: Mapping[str, Tensor] | None
) -> nn.Module:
    """Compute f(x; θ, φ_l) as a plain model, and compare the two on a small batch.

    Args:
        model: The model with languages.
        language: The language.
        adapter: The name of its adapter in the backend.
        probe: The batch to compare on; `None` for one that is made up.

    Returns:
        The plain model, trainable as a whole.

    Raises:
        ConfigurationError: If the method cannot be merged, the batch cannot run, or the plain model
            computes, or would compute after saving and loading, anything else.
    """
    backend = model.backend
    if not isinstance(backend, MergesLanguages):
        raise ConfigurationError(
            "The language adapters must be of a backend that can merge them. Found"
            f' "{backend.name}". Keep the adapter next to the model.'
        )

    merged = backend.merged(adapter)
    settle_ties(merged, backend.base)
    if not loads_as_it_is(merged):
        raise _differs(
            f"`{type(merged).__name__}` ties its embeddings whenever it is loaded, and merging has"
            " changed only one of them"
        )

    if probe is None:
        probe = probe_inputs(backend.base, backend.config)
    with torch.no_grad(), _evaluating(model, merged):
        expected = _run(model.forward, {"language": language, **probe}, type(merged).__name__)
        found = _run(merged.forward, probe, type(merged).__name__)
    _check_same(found, expected)

    # the library leaves the base frozen, but a plain model is trained as a whole
    for parameter in merged.parameters():
        if parameter.is_floating_point():  # torch refuses gradients of integers
            parameter.requires_grad_(True)
    return merged


@contextmanager
def _evaluating(*models: Routed | nn.Module) -> Iterator[None]:
    """Switch dropout off, and restore the mode of every module afterwards."""
    modes = [(part, part.training) for model in models for part in model.modules()]
    for part, _ in modes:
        part.training = False

    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _run(forward: object, inputs: Mapping[str, object], name: str) -> dict[str, Tensor]:
    """The tensors of floating-point numbers that a forward pass returns, by name."""
    try:
        result = forward(**inputs)  # type: ignore[operator]
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        names = sorted(inputs.keys() - {"language"})
        raise ConfigurationError(
            "`merge_language` compares the merged model with the present one on a batch that both"
            f" can run. Found that `{name}` cannot run on {names}:"
            f" {type(error).__name__}: {error} Pass inputs of the model as `probe={{...}}`."
        ) from error

    if isinstance(result, Tensor):
        result = {"0": result}
    elif isinstance(result, tuple):
        result = {str(number): value for number, value in enumerate(result)}

    return {
        name: value
        for name, value in dict(result).items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }


def _check_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse a merged model whose outputs differ by more than rounding."""
    for name, value in expected.items():
        if name not in found or found[name].shape != value.shape:
            raise _differs(f"`{name}` is missing from its outputs, or of another shape")

        tolerance = _TOLERANCES.get(value.dtype, _TOLERANCE)
        difference = (found[name].double() - value.double()).norm()
        # not `>`, which NaN would pass
        if not difference <= tolerance * value.double().norm():
            largest = (found[name].double() - value.double()).abs().max().item()
            raise _differs(f"`{name}` is off by up to {largest:.3g}")


def _differs(what: str) -> ConfigurationError:
    return ConfigurationError(
        "A merged model must compute what the model computes in the language. Found that it does"
        f" not: {what}. The method, or how it is combined with θ, cannot become part of the"
        " weights. Keep the adapter next to the model: `save_pretrained`, then"
        " `PeftModel.from_pretrained(base, folder, subfolder=language)`."
    )
