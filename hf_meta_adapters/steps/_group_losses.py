"""The losses of groups of languages that share a forward pass, and those of their languages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_meta_adapters._typing import AllReduce, Language


class GroupLoss:
    """T_g = G Σ_{i∈g} w_i L_i of one micro-batch, a loss for `hf_meta_adapters.meta`.

    Args:
        languages: The languages of the micro-batch.
        sums: Evaluates Σ −log p(label) of each language, of shape (languages).
        labels: How many labels each language has in all micro-batches of all processes, of shape
            (languages).
        weights: G w_i of each language, of shape (languages).
    """

    def __init__(
        self,
        languages: Sequence[Language],
        sums: Callable[[], Tensor],
        labels: Tensor,
        weights: Tensor,
    ) -> None:
        self.languages = tuple(languages)
        self.language_losses: Tensor | None = None
        """What this micro-batch adds to each L_i, detached; `None` before the first evaluation."""

        self._sums = sums
        self._labels = labels
        self._weights = weights

    def __call__(self) -> Tensor:
        """Evaluate the loss, 0-d."""
        shares = self._sums() / self._labels

        # The first evaluation is at θ, or where validation losses are wanted; later ones belong to
        # finite differences.
        if self.language_losses is None:
            self.language_losses = shares.detach()

        return (shares * self._weights).sum()


@dataclass(frozen=True)
class GroupLosses:
    """The losses of all groups in one role.

    Args:
        languages: The languages, in the order of their batches.
        labeled: Those of them that have a label.
        losses: The name of a group → a loss for each micro-batch.
    """

    languages: list[Language]
    labeled: list[Language]
    losses: dict[str, list[GroupLoss]]

    def by_language(self) -> dict[Language, Tensor]:
        """L_i of this process, summed over micro-batches; languages not evaluated are absent."""
        shares: dict[Language, list[Tensor]] = {key: [] for key in self.languages}
        for group in self.losses.values():
            for loss in group:
                # Some estimators evaluate only the languages whose gradients are wanted.
                if loss.language_losses is None:
                    continue

                for key, share in zip(loss.languages, loss.language_losses, strict=True):
                    shares[key].append(share)

        return {key: torch.stack(parts).sum() for key, parts in shares.items() if parts}


def lacking(**roles: GroupLosses) -> dict[str, tuple[Language, ...]]:
    """Role → the languages that have no label in it; roles in which all have one are absent."""
    found: dict[str, tuple[Language, ...]] = {}
    for role, losses in roles.items():
        missing = tuple(key for key in losses.languages if key not in losses.labeled)
        if missing:
            found[role] = missing

    return found


def reduced_losses(
    roles: Sequence[GroupLosses], all_reduce: AllReduce | None
) -> list[dict[Language, Tensor]]:
    """The losses of the languages in each role, summed over processes in one message."""
    losses = [role.by_language() for role in roles]

    # The losses of both roles travel together: a message costs more than its numbers.
    values: list[Tensor] = []
    for by_language in losses:
        values += by_language.values()
    if not values:
        return losses

    together = torch.stack(values)
    if all_reduce is not None:
        all_reduce(together)

    sizes = [len(by_language) for by_language in losses]
    return [
        dict(zip(by_language, totals, strict=True))
        for by_language, totals in zip(losses, together.split(sizes), strict=True)
    ]
