"""The virtual step that Adam would take, from the moments that the optimizer of θ has now."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta._inner_optimizer import InnerOptimizer
from hf_meta_adapters.meta.vectors import Vector, absent, local, mapped, present

_STATE = {"exp_avg", "exp_avg_sq", "step"}
"""The names under which PyTorch's optimizers of the Adam family keep m, v and t."""

_ENTRIES = 1 << 22
"""How many entries of parameters are computed with at once."""

_ENTRIES_ON_CPU = 1 << 16
"""The same on a CPU: a dozen passes over them find them in the cache."""


def is_adam(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer takes the steps of Adam, with or without decay of the weights.

    By its class: RAdam and NAdam keep a state of the same names and take other steps.
    """
    return isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW))


@dataclass(frozen=True)
class AdamState:
    """What Adam remembers of one parameter.

    Args:
        first_moment: m, shaped like the parameter.
        second_moment: v, likewise.
        steps: t, the number of updates so far.
        betas: (β₁, β₂), the decay rates of m and v.
        epsilon: ε, added to √v̂.
    """

    first_moment: Tensor
    second_moment: Tensor
    steps: float
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8


@dataclass(frozen=True)
class Adam(InnerOptimizer):
    """Δ(g) = m̂ / (√v̂ + ε), the step that Adam would take next, with its exact derivative.

    Kingma and Ba (ICLR 2015). With t the number of the coming update,

        m̂ = (β₁ m + (1 − β₁) g) / (1 − β₁ᵗ),     v̂ = (β₂ v + (1 − β₂) g²) / (1 − β₂ᵗ),
        ∂Δ/∂g = (1 − β₁) / ((1 − β₁ᵗ) (√v̂ + ε)) − m̂ (1 − β₂) g / ((1 − β₂ᵗ) √v̂ (√v̂ + ε)²).

    The state itself does not change. Before the optimizer has one (in the first step), Δ is nearly
    sign(g), which hardly depends on g: the indirect part is then close to zero, as it is for the
    true step. Weight decay is left out, since it does not depend on g.

    Args:
        states: One state per parameter of θ; `None` where the optimizer has none yet.
        betas: (β₁, β₂) for parameters without a state.
        epsilon: ε for parameters without a state.
    """

    states: Sequence[AdamState | None]
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> Adam:
        """The step that an optimizer of the Adam family would take, from the state that it has now.

        Args:
            optimizer: Adam or AdamW of PyTorch, fused or not.
            parameters: θ.

        Returns:
            The virtual step.

        Raises:
            ConfigurationError: If it is another optimizer, or does not hold a parameter.
        """
        # By identity: comparing tensors with `==` would compare their entries.
        group_of = {
            id(parameter): group
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

        counts = _counts([optimizer.state.get(parameter, {}) for parameter in parameters])
        states: list[AdamState | None] = []
        for parameter, count in zip(parameters, counts, strict=True):
            group = group_of.get(id(parameter))
            state = optimizer.state.get(parameter, {})

            is_known = is_adam(optimizer) and group is not None and not group["amsgrad"]
            if group is None or not is_known or (state and not set(state) >= _STATE):
                raise ConfigurationError(
                    '`inner_optimizer="adam"` needs PyTorch\'s Adam or AdamW (without `amsgrad`)'
                    f" that holds every shared parameter. Found `{type(optimizer).__name__}`. Use"
                    ' `inner_optimizer="sgd"` or `optim="adamw_torch"`.'
                )

            # The optimizer creates it in its first update.
            if not state:
                states.append(None)
                continue

            states.append(
                AdamState(
                    first_moment=state["exp_avg"],
                    second_moment=state["exp_avg_sq"],
                    steps=count,
                    betas=tuple(group["betas"]),
                    epsilon=group["eps"],
                )
            )

        first_group = optimizer.param_groups[0]
        return cls(states, tuple(first_group["betas"]), first_group["eps"])

    def displacement(self, gradient: Vector) -> tuple[Vector, Vector | None]:
        """Return Δ(g) and the diagonal of its Jacobian."""
        steps, slopes = absent(self.states), absent(self.states)
        for position, entry in enumerate(gradient):
            if entry is not None:
                steps[position] = _room(entry)
                slopes[position] = _room(entry)

        for piece in self._pieces(gradient, steps, slopes):
            moved, slope = _step_and_slope(piece.gradients, piece.states)
            torch._foreach_copy_(piece.outputs[0], moved)
            torch._foreach_copy_(piece.outputs[1], slope)

        return steps, slopes

    def slope(self, gradient: Vector, factors: Sequence[Tensor | float]) -> Vector:
        """Return the diagonal of the Jacobian, times a factor, and zero where g is exactly zero.

        Args:
            gradient: g.
            factors: One for each parameter.
        """
        slopes = mapped(gradient, _room)
        for piece in self._pieces(gradient, slopes):
            parts = _Parts.of(piece.gradients, piece.states)
            slope = parts.slope(piece.gradients)

            # with the sign of g²: 0 where g is, and else 1
            torch._foreach_sign_(parts.squares)
            several = zip(slope, parts.squares, piece.outputs[0], piece.positions, strict=True)
            for entry, sign, output, position in several:
                torch.mul(entry, sign, out=output)
                output.mul_(factors[position])

        return slopes

    def _pieces(self, gradient: Vector, *outputs: Vector) -> Iterator[_Piece]:
        """Pieces of the parameters, so small that the passes over one find it in the cache."""
        alike: dict[tuple[object, ...], list[int]] = {}
        for position, (entry, state) in enumerate(zip(gradient, self.states, strict=True)):
            if entry is not None:
                alike.setdefault(self._constants(entry, state), []).append(position)

        for positions in alike.values():
            piece = _Piece.empty(len(outputs))
            for position in positions:
                entry = present(gradient, [position])[0]
                state = self._state(entry, self.states[position])
                limit = _ENTRIES if entry.is_cuda else _ENTRIES_ON_CPU

                flat = [_flat(entry), _flat(state.first_moment), _flat(state.second_moment)]
                flat += [_flat(present(output, [position])[0]) for output in outputs]
                for parts in zip(*(one.split(limit) for one in flat), strict=True):
                    if piece.size + parts[0].numel() > limit and piece.size:
                        yield piece
                        piece = _Piece.empty(len(outputs))
                    piece.add(position, state, parts)

            yield piece

    def _constants(self, entry: Tensor, state: AdamState | None) -> tuple[object, ...]:
        """What parameters must have in common to share a kernel."""
        numbers: tuple[object, ...] = (self.betas, self.epsilon, 0.0)
        if state is not None:
            numbers = (state.betas, state.epsilon, float(state.steps))
        return entry.device, entry.dtype, *numbers

    def _state(self, entry: Tensor, state: AdamState | None) -> AdamState:
        """The state of a parameter, which is zero before the optimizer has one."""
        if state is not None:
            return state
        zeros = torch.zeros_like(entry)
        return AdamState(zeros, zeros, 0, self.betas, self.epsilon)


def _step_and_slope(
    g: list[Tensor], states: Sequence[AdamState]
) -> tuple[list[Tensor], list[Tensor]]:
    """Δ(g) and ∂Δ/∂g of parameters with the same constants, by the equations above."""
    parts = _Parts.of(g, states)

    # An entry that never had a gradient stays where it is. The formula has 0/0 there, and its limit
    # (1 − β₁)/ε is a slope that no later step has: the slope is zero, as its sign √v' says.
    moved = torch._foreach_sign(parts.root)
    slope = parts.slope(g)
    torch._foreach_mul_(slope, moved)
    torch._foreach_mul_(parts.step, parts.scale)
    return parts.step, slope


@dataclass
class _Parts:
    """What Δ and its derivative are made of, for parameters with the same constants.

    A fused kernel for all of them stands where each would take a kernel of its own, and what the
    corrections have in common is taken out of the vectors: with m' = β₁ m + (1 − β₁) g,
    v' = β₂ v + (1 − β₂) g², c = √(1 − β₂ᵗ), ε' = c ε and s = c / (1 − β₁ᵗ),

        Δ = s m' / (√v' + ε'),
        ∂Δ/∂g = s (1 − β₁ − (1 − β₂) m' g / (√v' (√v' + ε'))) / (√v' + ε').

    Args:
        squares: g².
        root: √v'.
        denominator: √v' + ε'.
        step: m' / (√v' + ε').
        scale: s.
        betas: (β₁, β₂).
    """

    squares: list[Tensor]
    root: list[Tensor]
    denominator: list[Tensor]
    step: list[Tensor]
    scale: float
    betas: tuple[float, float]

    @classmethod
    def of(cls, g: list[Tensor], states: Sequence[AdamState]) -> _Parts:
        """Compute them."""
        first = states[0]
        b1, b2 = first.betas
        t = first.steps + 1
        correction = math.sqrt(1 - b2**t)

        step = torch._foreach_lerp([local(state.first_moment) for state in states], g, 1 - b1)
        squares = torch._foreach_mul(g, g)
        second = [local(state.second_moment) for state in states]
        root = torch._foreach_lerp(second, squares, 1 - b2)
        torch._foreach_sqrt_(root)

        denominator = torch._foreach_add(root, correction * first.epsilon)
        torch._foreach_div_(step, denominator)
        return cls(
            squares=list(squares),
            root=list(root),
            denominator=list(denominator),
            step=list(step),
            scale=correction / (1 - b1**t),
            betas=first.betas,
        )

    def slope(self, g: list[Tensor]) -> list[Tensor]:
        """∂Δ/∂g; where √v' is zero, a number without meaning."""
        b1, b2 = self.betas
        torch._foreach_clamp_min_(self.root, torch.finfo(self.root[0].dtype).tiny)

        slope = torch._foreach_mul(self.step, g)
        torch._foreach_div_(slope, self.root)
        torch._foreach_mul_(slope, (b2 - 1) * self.scale)
        torch._foreach_add_(slope, (1 - b1) * self.scale)
        torch._foreach_div_(slope, self.denominator)
        return list(slope)


@dataclass
class _Piece:
    """Parts of parameters with the same constants, as flat views.

    Args:
        positions: The parameter of each part.
        gradients: g.
        states: The moments, as parts.
        outputs: Where results are written to.
        size: How many entries all parts have together.
    """

    positions: list[int]
    gradients: list[Tensor]
    states: list[AdamState]
    outputs: list[list[Tensor]]
    size: int = 0

    @classmethod
    def empty(cls, outputs: int) -> _Piece:
        """No part yet."""
        return cls([], [], [], [[] for _ in range(outputs)])

    def add(self, position: int, state: AdamState, parts: Sequence[Tensor]) -> None:
        """Add a part: of g, of both moments, and of the results."""
        entry, first, second, *outputs = parts
        self.positions.append(position)
        self.gradients.append(entry)
        self.states.append(replace(state, first_moment=first, second_moment=second))
        for own, output in zip(self.outputs, outputs, strict=True):
            own.append(output)
        self.size += entry.numel()


def _room(entry: Tensor) -> Tensor:
    """Memory for a result, whose flat form is a view."""
    return torch.empty_like(entry, memory_format=torch.contiguous_format)


def _flat(entry: Tensor) -> Tensor:
    """The part that this process holds as a vector, in the same memory if that is contiguous."""
    return local(entry).reshape(-1)


def _counts(states: Sequence[Mapping[str, Any]]) -> list[float]:
    """The number t of each parameter; fused optimizers keep it on the device."""
    positions = [position for position, state in enumerate(states) if "step" in state]
    counts = [0.0] * len(states)
    tensors = [local(states[position]["step"]) for position in positions]

    # All at once: the host waits for the device each time.
    values: list[float] = []
    if len({tensor.device for tensor in tensors}) == 1:
        values = torch.stack(tensors).tolist()
    else:
        values = [float(tensor) for tensor in tensors]

    for position, value in zip(positions, values, strict=True):
        counts[position] = value
    return counts
