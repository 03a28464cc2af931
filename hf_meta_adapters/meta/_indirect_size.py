"""How large the indirect part of the meta-gradient is beside the direct part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.meta.vectors import Vector, bounded, norm, ratio, scaled

Scope: TypeAlias = Literal["all", "language"]


@dataclass(frozen=True)
class IndirectSize:
    """Scales the indirect parts of a step.

    The raw size of the indirect part grows with the rate of the step that it runs through, and
    differs by two orders of magnitude between models. A held ratio makes settings comparable.

    Args:
        ratio: r: the indirect part is scaled to ‖indirect‖ = r ‖direct‖. `None` leaves it alone.
        scope: Whether the norms are those of all languages together, so that one factor scales all
            indirect parts (`"all"`), or those of each language (`"language"`).
        most: The upper bound on ‖indirect‖ / ‖direct‖ of each language; `None` for none.
    """

    ratio: float | None = None
    scope: Scope = "all"
    most: float | None = None

    @property
    def acts(self) -> bool:
        """Whether anything is scaled."""
        return self.ratio is not None or self.most is not None

    def __call__(
        self, direct: Mapping[Language, Vector], indirect: Mapping[Language, Vector]
    ) -> dict[Language, Vector]:
        """Scale the indirect part of each language.

        Args:
            direct: The direct part of each language.
            indirect: The indirect part of each language, as it was computed.

        Returns:
            The indirect part of each language, as it is used.
        """
        if self.most is not None:
            return {key: bounded(indirect[key], norm(direct[key]) * self.most) for key in indirect}

        if self.ratio is None:
            return dict(indirect)

        together = self.ratio * ratio(_norm_of_all(direct), _norm_of_all(indirect))
        if self.scope == "all":
            return {key: scaled(vector, together) for key, vector in indirect.items()}

        sized = {}
        for key, vector in indirect.items():
            length = norm(direct[key])
            factor = self.ratio * ratio(length, norm(vector))

            # A language without a direct part has no length to be compared with.
            sized[key] = scaled(vector, torch.where(length > 0, factor, together.to(factor)))

        return sized


def _norm_of_all(parts: Mapping[Language, Vector]) -> Tensor:
    """The norm of the parts of all languages, one after the other, 0-d."""
    every: Vector = []
    for vector in parts.values():
        every += vector
    return norm(every)
