"""The weights of the languages in the training loss of θ in one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from hf_meta_adapters._typing import Language, Parameters
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta._shares import Shares
from hf_meta_adapters.meta.vectors import is_sharded

__all__ = ["StepWeights"]


@dataclass(frozen=True)
class StepWeights:
    """How much the training loss of each language counts for θ: Σ_l w_l L_l, in place of the mean.

    They act on θ alone, its update and the virtual step of `lookahead="shared"`. Each φ_l has its
    own loss, for which a weight would be another learning rate. They are not the weights of
    `meta_languages`, which say whose *validation* loss counts.

    Args:
        weights: w_l > 0 of each language, up to a factor: in a step they are divided by their sum
            over the languages that have a training loss in it.
        against: A gradient of θ, by parameter name. The result then says how well the gradient of
            each language agrees with it (`.alignment`). `None` measures nothing.
        keep_validation: Whether the result has the validation gradient v (`.validation`).

    Raises:
        ConfigurationError: If a weight is not positive.

    Example:
        >>> weights = StepWeights({"en": 1.0, "sw": 3.0, "te": 4.0})
        >>> weights.shares({}, ["en", "sw"]).of
        {'en': 0.25, 'sw': 0.75}
    """

    weights: Mapping[Language, float]
    against: Mapping[str, Tensor] | None = field(default=None, repr=False)
    keep_validation: bool = False

    def __post_init__(self) -> None:
        """Check the weights."""
        wrong = {key: weight for key, weight in self.weights.items() if not weight > 0}
        if wrong:
            raise ConfigurationError(
                f"The weight of a language must be a positive number. Found {wrong}. Leave"
                " languages that are not to count out of the batches."
            )

    def shares(self, shared: Parameters, trained: Sequence[Language]) -> Shares:
        """The weights in a step, which sum to 1.

        Args:
            shared: θ, by name.
            trained: The languages that have a training loss.

        Returns:
            What the passes of the step work with.

        Raises:
            ConfigurationError: If a language has no weight, or θ is sharded and gradients are to be
                compared.
        """
        missing = [key for key in trained if key not in self.weights]
        if missing:
            raise ConfigurationError(
                f"Every language of a step needs a weight. Found none for {missing} in"
                f" {dict(self.weights)}. Add it."
            )

        if self.against is not None and any(map(is_sharded, shared.values())):
            raise ConfigurationError(
                "Gradients of θ are compared whole. Found θ sharded among processes. Use weights"
                " without `against`, such as those of FAMO, or train without FSDP."
            )

        total = sum(self.weights[key] for key in trained)
        of = {key: self.weights[key] / total for key in trained}
        against = None
        if self.against is not None:
            against = [self.against.get(name) for name in shared]
        return Shares(of, against, self.keep_validation)


def shares_of(
    weights: StepWeights | None, shared: Parameters, trained: Sequence[Language]
) -> Shares:
    """The weights in a step; equal ones if none are given."""
    if weights is None:
        return Shares.equal(trained)
    return weights.shares(shared, trained)
