"""How the step that an optimizer takes depends on the gradient that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta._adam_derivative import adam_derivative
from hf_meta_adapters.meta.adam import is_adam
from hf_meta_adapters.meta.vectors import Vector, absent, local, mapped


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


class OptimizerDerivative:
    """The diagonal D = −∂θ_{t+1}/∂g_t of the next step that an optimizer takes.

    Of Adam and AdamW, see `adam_derivative`; of SGD with the momentum μ and the dampening d,
    η (1 − d), and η where there is no momentum yet; Nesterov's form has 1 + μ (1 − d), and 1 + μ at
    first. η is the learning rate of the parameter in that step.

    An entry of g that is exactly zero belongs to a weight that no loss reached, such as the
    embedding of a word that is not in the batch. No φ changes that, and its D is set to zero:
    Adam's would be near η/ε and swamp all others in a finite difference.

    Args:
        optimizer: An optimizer that `check_optimizer` accepts, before the step.
        parameters: θ.
        point: The values of θ before the step: the parts that this process holds.
    """

    def __init__(
        self, optimizer: Optimizer, parameters: Sequence[Tensor], point: Sequence[Tensor]
    ) -> None:
        self._optimizer = optimizer
        self._parameters = list(parameters)
        self._point = point
        # The first gradient becomes the momentum as it is.
        self._is_first = [
            optimizer.state.get(parameter, {}).get("momentum_buffer") is None
            for parameter in parameters
        ]

    def __call__(self, gradients: Vector, factor: Tensor | float = 1.0) -> Vector:
        """Compute D, after the step and before the next.

        Args:
            gradients: g_t, as the optimizer saw it.
            factor: What D is multiplied by.

        Returns:
            D, absent where there is no gradient: the parts that this process holds. Zero if a
            fused optimizer has skipped the step because of an overflow of fp16.
        """
        groups = _groups(self._optimizer)
        own = [groups[id(parameter)] for parameter in self._parameters]
        factors = [group["lr"] * factor for group in own]

        if is_adam(self._optimizer):
            decayed = self._decayed(mapped(gradients, local), own)
            states = [self._optimizer.state.get(one, {}) for one in self._parameters]
            derivative = adam_derivative(states, own, decayed, factors)
        else:
            derivative = absent(gradients)
            for position, entry in enumerate(mapped(gradients, local)):
                if entry is not None:
                    slope = _sgd_slope(own[position], is_first=self._is_first[position])
                    whole = torch.full_like(entry, slope) * factors[position]
                    derivative[position] = whole.masked_fill_(entry == 0, 0.0)

        # A tensor: the host would wait for its value. Others are not called for such a step.
        found_inf: Tensor | None = getattr(self._optimizer, "found_inf", None)
        if found_inf is None:
            return derivative

        # not times 0, which NaN would survive
        return mapped(
            derivative, lambda entry: entry.masked_fill(found_inf.to(entry.device) > 0, 0.0)
        )

    def _decayed(self, gradients: Vector, groups: Sequence[dict[str, Any]]) -> Vector:
        """The gradient, g + λθ where the optimizer takes that for the gradient."""
        decayed: Vector = []
        for entry, start, group in zip(gradients, self._point, groups, strict=True):
            decay = _coupled_decay(self._optimizer, group)
            if entry is not None and decay:
                # no loss reached an entry of zero, whatever decays it
                entry = torch.where(entry == 0, entry, entry + decay * start)
            decayed.append(entry)
        return decayed


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


def _sgd_slope(group: dict[str, Any], *, is_first: bool) -> float:
    """∂/∂g of the direction that SGD takes."""
    momentum, fresh = group["momentum"], 1.0
    if momentum and not is_first:
        fresh = 1.0 - group["dampening"]
    if group["nesterov"]:
        fresh = 1.0 + momentum * fresh

    return float(fresh)


def _unknown(found: str) -> ConfigurationError:
    return ConfigurationError(
        '`lookahead="next"` needs the derivative of the step of the optimizer: Adam, AdamW or SGD'
        f" of PyTorch that holds all of θ. Found {found}. Use one of these"
        ' (`optim="adamw_torch"`), or `lookahead="shared"`.'
    )
