"""From gradients to `.grad`, where optimizers look for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.meta import JointGradients, MetaGradients
from hf_meta_adapters.modeling.model import LanguageAdapterModel

if TYPE_CHECKING:
    from torch.amp import GradScaler

Gradients: TypeAlias = JointGradients | MetaGradients


def apply_gradients(
    model: LanguageAdapterModel,
    gradients: Gradients,
    update: str,
    scale: Tensor | None = None,
    *,
    shared: bool = True,
) -> None:
    """Set `.grad` of θ and of the φ_l of the step.

    A parameter without a gradient gets `None`, so that no optimizer touches it: not even its weight
    decay or momentum moves the φ of a language that is not in the step.

    Args:
        model: The model.
        gradients: The gradients.
        update: What φ is updated by, "meta", "train" or "meta+train". Of a joint step, only the
            training gradients are available.
        scale: A factor of all gradients (the loss scale of fp16).
        shared: Whether θ is updated as well.
    """
    for name, parameter in model.shared_parameters().items():
        gradient = None
        if shared:
            gradient = gradients.shared.get(name)

        parameter.grad = _laid_out(_scaled(gradient, scale), parameter)

    terms = _terms(gradients, update)
    for language in model.languages:
        for name, parameter in model.language_parameters(language).items():
            # A language outside the step has no entry; a parameter that no loss reaches, neither.
            found = [term[language][name] for term in terms if name in term.get(language, {})]

            parameter.grad = _laid_out(_scaled(_sum(found), scale), parameter)


def skip_step(model: LanguageAdapterModel, scaler: GradScaler | None = None) -> None:
    """Leave `.grad` such that the optimizer does nothing.

    Args:
        model: The model.
        scaler: The loss scaler of fp16. It refuses a step without gradients, but skips one with an
            infinite gradient.
    """
    for parameter in model.parameters():
        parameter.grad = None

    if scaler is not None:
        first = next(parameter for parameter in model.parameters() if parameter.requires_grad)
        first.grad = torch.full_like(first, float("inf"))


def _terms(gradients: Gradients, update: str) -> list[Mapping[Language, Mapping[str, Tensor]]]:
    """The gradients that add up to the update of φ."""
    names = update.split("+")
    terms: list[Mapping[Language, Mapping[str, Tensor]]] = []

    if "train" in names:
        terms.append(gradients.train)
    # Between the steps of `meta_every`, and after alternating updates, there is no meta-gradient.
    if "meta" in names and isinstance(gradients, MetaGradients):
        terms.append(gradients.language)

    return terms


def _sum(terms: Sequence[Tensor]) -> Tensor | None:
    """The sum, without an addition where there is but one term; `None` of no terms."""
    if not terms:
        return None

    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _scaled(gradient: Tensor | None, scale: Tensor | None) -> Tensor | None:
    if gradient is None or scale is None:
        return gradient
    return gradient * scale


def _laid_out(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    """The gradient with its entries in the order in memory that those of the parameter have.

    Autograd sees to it in `backward`, not in `torch.autograd.grad`. A fused optimizer reads both as
    they lie in memory, and would update other entries.
    """
    if gradient is None or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
