"""How the step that an optimizer takes depends on the gradient that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta.adam import Adam, is_adam
from hf_meta_adapters.meta.vectors import Vector, absent


def check_optimizer(optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
    """Check that the derivative of the optimizer's step is known.

    Args:
        optimizer: The optimizer.
        parameters: θ.

    Raises:
        ConfigurationError: If it is not, or the optimizer does not hold a parameter.
    """
    if not is_adam(optimizer) and not isinstance(optimizer, SGD):
        raise _unknown(type(optimizer).__name__)

    held = _groups(optimizer)
    for parameter in parameters:
        group = held.get(id(parameter))
        if group is None:
            raise _unknown(f"{type(optimizer).__name__} without a parameter of θ")

        for feature in ("maximize", "amsgrad"):
            if group.get(feature):
                raise _unknown(f"{type(optimizer).__name__}({feature}=True)")


def optimizer_derivative(
    optimizer: Optimizer,
    parameters: Sequence[Tensor],
    gradients: Vector,
    factor: Tensor | float = 1.0,
) -> Vector:
    """The diagonal D = −∂θ_{t+1}/∂g_t of the step that the optimizer is about to take.

    Of Adam and AdamW, η ∂Δ/∂g with Δ and its derivative as in `Adam`; of SGD with the momentum μ
    and the dampening d, η (1 − d), and η where there is no momentum yet; Nesterov's form has
    1 + μ (1 − d), and 1 + μ at first. η is the present learning rate of the parameter.

    An entry of g that is exactly zero belongs to a weight that no loss reached, such as the
    embedding of a word that is not in the batch. No φ changes that, and its D is set to zero:
    Adam's would be near η/ε and swamp all others in a finite difference.

    Args:
        optimizer: An optimizer that `check_optimizer` accepts, before the step.
        parameters: θ.
        gradients: g_t, as the optimizer sees it.
        factor: What D is multiplied by.

    Returns:
        D, absent where there is no gradient.
    """
    groups = _groups(optimizer)
    factors = [groups[id(parameter)]["lr"] * factor for parameter in parameters]

    if is_adam(optimizer):
        decayed: Vector = []
        for parameter, entry in zip(parameters, gradients, strict=True):
            decay = _coupled_decay(optimizer, groups[id(parameter)])
            if entry is not None and decay:
                # no loss reached an entry of zero, whatever decays it
                entry = torch.where(entry == 0, entry, entry + decay * parameter.detach())
            decayed.append(entry)
        return Adam.of(optimizer, parameters).slope(decayed, factors)

    derivative = absent(parameters)
    for position, (parameter, entry) in enumerate(zip(parameters, gradients, strict=True)):
        slope = _sgd_slope(optimizer, parameter, entry, groups[id(parameter)])
        if slope is not None and entry is not None:
            derivative[position] = (slope * factors[position]).masked_fill_(entry == 0, 0.0)

    return derivative


def _groups(optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    """The group of each parameter, by identity."""
    return {
        id(parameter): group for group in optimizer.param_groups for parameter in group["params"]
    }


def _coupled_decay(optimizer: Optimizer, group: dict[str, Any]) -> float:
    """λ where the optimizer adds λθ to the gradient, as Adam does; AdamW shrinks θ itself."""
    if isinstance(optimizer, AdamW) or group.get("decoupled_weight_decay"):
        return 0.0

    decay: float = group["weight_decay"]
    return decay


def _sgd_slope(
    optimizer: Optimizer, parameter: Tensor, entry: Tensor | None, group: dict[str, Any]
) -> Tensor | None:
    """∂/∂g of the direction that SGD takes."""
    if entry is None:
        return None

    momentum, fresh = group["momentum"], 1.0
    # The first gradient becomes the momentum as it is.
    if momentum and optimizer.state.get(parameter, {}).get("momentum_buffer") is not None:
        fresh = 1.0 - group["dampening"]
    if group["nesterov"]:
        fresh = 1.0 + momentum * fresh

    return torch.full_like(entry, fresh)


def _unknown(found: str) -> ConfigurationError:
    return ConfigurationError(
        '`lookahead="next"` needs the derivative of the step of the optimizer: Adam, AdamW or SGD'
        f" of PyTorch that holds all of θ. Found {found}. Use one of these"
        ' (`optim="adamw_torch"`), or `lookahead="shared"`.'
    )
