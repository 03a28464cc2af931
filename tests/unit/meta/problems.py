"""Small multilingual problems on plain tensors, and an independent reference: the fully unrolled
outer step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

LANGUAGES = ["te", "da", "zh-Hant"]
Named = dict[str, Tensor]


@dataclass
class Problem:
    """θ, φ, and `loss(theta, phi, inputs, targets, seed)` with data for two roles and any number of
    micro-batches.
    """

    shared: Named
    language: dict[str, Named]
    function: Callable[[Named, Named, Tensor, Tensor], Tensor]
    data: dict[tuple[str, str], tuple[Tensor, Tensor]]
    dropout: float

    def value(
        self, role: str, key: str, shared: Named, own: Named, part: int = 0, parts: int = 1
    ) -> Tensor:
        x, y = (entry.chunk(parts)[part] for entry in self.data[role, key])
        torch.manual_seed(len(role) * 100 + len(key) * 10 + part)
        return self.function(shared, own, x, y, self.dropout) / parts

    def on(self, device: str) -> Problem:
        def moved(named: Named) -> Named:
            return {
                name: entry.detach().to(device).requires_grad_() for name, entry in named.items()
            }

        own = {key: moved(named) for key, named in self.language.items()}
        data = {key: (x.to(device), y.to(device)) for key, (x, y) in self.data.items()}
        return replace(self, shared=moved(self.shared), language=own, data=data)

    def losses(self, role: str, parts: int = 1) -> dict:
        def one(key: str, part: int) -> Callable[[], Tensor]:
            return lambda: self.value(role, key, self.shared, self.language[key], part, parts)

        return {
            key: [one(key, part) for part in range(parts)] if parts > 1 else one(key, 0)
            for key in self.language
        }


def _network(shared: Named, own: Named, x: Tensor, y: Tensor, dropout: float) -> Tensor:
    hidden = torch.tanh(x @ shared["first"])
    hidden = hidden + torch.tanh(hidden @ own["down"]) @ own["up"]
    hidden = F.dropout(hidden, dropout)
    return (torch.sin(hidden @ shared["second"]) - y).square().mean() + 0 * shared["second"].sum()


def _attention(shared: Named, own: Named, x: Tensor, y: Tensor, dropout: float) -> Tensor:
    states = x.view(x.shape[0], 2, -1) @ shared["first"]
    query, key, value = ((states * own[name]) @ shared["second"] for name in ("down", "up", "up"))
    mixed = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
    return (F.dropout(mixed, dropout).sum(1) - y).square().mean()


def make(
    name: str = "network",
    *,
    dtype: torch.dtype = torch.float64,
    dropout: float = 0.3,
    seed: int = 0,
) -> Problem:
    """A problem with three languages; `"attention"` goes through the fused attention kernel."""
    draw = torch.Generator().manual_seed(seed)

    def parameter(*shape: int, scale: float = 0.5) -> Tensor:
        return (
            (scale * torch.randn(*shape, generator=draw, dtype=torch.float64))
            .to(dtype)
            .requires_grad_()
        )

    if name == "network":
        shared = {"first": parameter(6, 8), "second": parameter(8, 4), "unused": parameter(3)}
        language = {
            key: {"down": parameter(8, 3), "up": parameter(3, 8), "idle": parameter(2)}
            for key in LANGUAGES
        }
        function = _network
    else:
        shared = {"first": parameter(3, 4), "second": parameter(4, 4)}
        language = {key: {"down": parameter(4), "up": parameter(4)} for key in LANGUAGES}
        function = _attention
    data = {
        (role, key): (
            torch.randn(12, 6, generator=draw, dtype=torch.float64).to(dtype),
            torch.randn(12, 4, generator=draw, dtype=torch.float64).to(dtype),
        )
        for role in ("train", "meta")
        for key in LANGUAGES
    }
    return Problem(shared, language, function, data, dropout)


@sdpa_kernel(SDPBackend.MATH)
def unrolled(
    problem: Problem,
    *,
    rate: float,
    lookahead: str = "per_language",
    others: bool = False,
    rule: Callable[[Tensor, str], Tensor] = lambda g, name: g,
    steps: int = 1,
    parts: int = 1,
) -> dict[str, Named]:
    """∇φ_i of Σ_j w_ij L_j^val(θ'_i, φ_j) by autograd through the whole step, all graphs kept.

    For the shared look-ahead and none, θ'_i has the value that they prescribe and the derivative of
    a step on i alone.
    """
    count = len(problem.language)

    def train(key: str, theta: Named) -> Named:
        value = sum(
            problem.value("train", key, theta, problem.language[key], part, parts)
            for part in range(parts)
        )
        slopes = torch.autograd.grad(
            value, list(theta.values()), create_graph=True, allow_unused=True
        )
        return {name: slope for name, slope in zip(theta, slopes, strict=True) if slope is not None}

    def stepped(theta: Named, slopes: Named) -> Named:
        return {k: p - rate * rule(slopes[k], k) if k in slopes else p for k, p in theta.items()}

    slopes = {key: train(key, problem.shared) for key in problem.language}
    mean = {k: sum(s[k] for s in slopes.values()).detach() / count for k in slopes[LANGUAGES[0]]}
    result = {}
    for key in problem.language:
        if lookahead == "per_language":
            ahead = dict(problem.shared)
            for _ in range(steps):
                ahead = stepped(ahead, train(key, ahead))
        else:
            point = stepped(problem.shared, mean) if lookahead == "shared" else problem.shared
            value = {k: p.detach() for k, p in point.items()}
            ahead = {}
            for k, p in value.items():
                if k not in slopes[key]:
                    ahead[k] = p.clone().requires_grad_()
                    continue
                own = slopes[key][k]
                at = (mean[k] if lookahead == "shared" else own).detach()
                diagonal = torch.autograd.functional.jvp(
                    lambda g, k=k: rule(g, k), at, torch.ones_like(at)
                )[1]
                plain = lookahead == "none"
                ahead[k] = (
                    p - rate * (1.0 if plain else diagonal) * (own - own.detach())
                ).requires_grad_()
        weight = {
            j: (0.0 if j == key else 1 / (count - 1)) if others else 1 / count
            for j in problem.language
        }
        outer = sum(
            weight[j] * problem.value("meta", j, ahead, problem.language[j], part, parts)
            for j in problem.language
            for part in range(parts)
        )
        own = problem.language[key]
        slope = torch.autograd.grad(outer, list(own.values()), allow_unused=True)
        result[key] = {name: s for name, s in zip(own, slope, strict=True) if s is not None}
    return result
