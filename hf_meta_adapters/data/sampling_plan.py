"""How often each language is taken over a whole run: what all such plans have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError

Counts = dict[Language, int]


@dataclass(frozen=True)
class SamplingPlan(ABC):
    """How often each language is taken over a run whose length is known in advance.

    Args:
        steps: S, the number of optimizer steps of the run; `None` for `epochs`.
        epochs: The length of the run in epochs, where `steps` is `None`.
    """

    steps: int | None = None
    epochs: float = 1.0

    def parts(
        self,
        sizes: Mapping[Language, int | None],
        *,
        steps_per_epoch: int,
        languages_per_step: int,
        rows: int | Mapping[Language, int],
        whole_steps: Collection[Language] = (),
    ) -> list[Counts]:
        """Return in how many steps of each part of the run a language is.

        Args:
            sizes: n_l, the number of rows of each language.
            steps_per_epoch: T.
            languages_per_step: k.
            rows: b, the rows of a language that a step reads; by language if they differ.
            whole_steps: The languages of which a pass over the rows ends with its last whole step,
                and leaves out the rows that remain.

        Returns:
            For each part of the run, in order: language → steps. They sum to k times the steps of
            the part, and the parts make up the run.

        Raises:
            ConfigurationError: If there is nothing to plan, a size is unknown, or the plan cannot
                be carried out.
        """
        name = type(self).__name__
        if languages_per_step >= len(sizes):
            raise ConfigurationError(
                f"{name} says how often a language is in a step, so a step must leave some out."
                f" Found all {len(sizes)} languages in every step. Set `languages_per_step` to"
                ' less, or leave out `sampling="..."`.'
            )

        known = {key: size for key, size in sizes.items() if size is not None}
        streams = [key for key in sizes if key not in known]
        if streams:
            raise ConfigurationError(
                f"{name} needs the number of rows of every language. Found streams for {streams}."
                ' Load the rows, or use `sampling="temperature"`, which takes streams equally'
                " often."
            )

        steps = self.steps
        if steps is None:
            steps = ceil(self.epochs * steps_per_epoch)

        passes: dict[Language, Fraction] = {}
        for key, size in known.items():
            own = rows if isinstance(rows, int) else rows[key]
            passes[key] = Fraction(size // own) if key in whole_steps else Fraction(size, own)
        return self._counts(known, passes, steps, languages_per_step)

    @abstractmethod
    def _counts(
        self,
        sizes: Mapping[Language, int],
        passes: Mapping[Language, Fraction],
        steps: int,
        languages_per_step: int,
    ) -> list[Counts]:
        """The counts of each part of a run.

        Args:
            sizes: n_l.
            passes: The number of steps in which the rows of a language are read once.
            steps: S.
            languages_per_step: k.

        Returns:
            As `parts`.
        """
