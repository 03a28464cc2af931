"""UniMax: languages as equally often as possible, none of them read too often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import floor, isfinite

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data.sampling_plan import Counts, SamplingPlan
from hf_meta_adapters.errors import ConfigurationError


@dataclass(frozen=True)
class UniMax(SamplingPlan):
    """Share out a run equally among languages, with at most N passes over the rows of each.

    UniMax of Chung et al. (2023, arXiv:2304.09151, Algorithm 1). The budget of the run is S · k
    batches, each of b rows of one language. From the smallest language to the largest, each is
    given an equal part of the batches that are left, but at most

        cap_l = min(S, ⌊N · n_l / b⌋)

    batches: those that read its n_l rows N times, and one in every step. (Where meta rows are
    training rows, b counts both, and N · ⌊n_l / b⌋ batches read the rows N times.) What does not
    divide evenly goes, one batch each, to the languages under their cap that come first.

    It differs from the paper in three points. The budget and the sizes count rows and not
    characters; the counts are exact, where the paper turns its budgets into probabilities; and a
    budget that the caps have no room for is refused, where the paper then reads all languages more
    than N times.

    Args:
        steps: S, the number of optimizer steps of the run; `None` for `epochs`.
        epochs: The length of the run in epochs, where `steps` is `None`.
        max_epochs: N > 0. The paper compares 1, 5 and 10.

    Raises:
        ConfigurationError: If N is not a positive number.

    Example:
        >>> plan = UniMax(steps=12, max_epochs=2)
        >>> sizes = {"en": 100, "fr": 60, "sw": 2}
        >>> plan.parts(sizes, steps_per_epoch=1, languages_per_step=1, rows=2)
        [{'en': 5, 'fr': 5, 'sw': 2}]
    """

    max_epochs: float = 1.0

    def __post_init__(self) -> None:
        """Check N."""
        valid = isinstance(self.max_epochs, (int, float)) and isfinite(self.max_epochs)
        if not valid or self.max_epochs <= 0:
            raise ConfigurationError(
                "`max_epochs` is how often the rows of a language may be read and must be a"
                f" positive number. Found {self.max_epochs!r}. Use for example 1.0."
            )

    def _counts(
        self,
        sizes: Mapping[Language, int],
        passes: Mapping[Language, Fraction],
        steps: int,
        languages_per_step: int,
    ) -> list[Counts]:
        # Exact: with floats, 0.1 · 30 steps would be less than 3.
        most = Fraction(str(self.max_epochs))
        caps = {key: min(steps, floor(most * passes[key])) for key in sizes}
        total = steps * languages_per_step

        few = {key: sizes[key] for key, cap in caps.items() if cap < 1}
        if few:
            raise ConfigurationError(
                f"UniMax reads no row more than {self.max_epochs} times. Found languages with fewer"
                f" rows than a single step then reads: {few}. Raise `sampling_max_epochs`, lower"
                " `per_device_train_batch_size`, or leave these languages out."
            )

        room = sum(caps.values())
        if room < total:
            raise ConfigurationError(
                f"UniMax reads no row more than {self.max_epochs} times, and no language twice in a"
                f" step. Found text for {room} batches, each of one language, in a run of {total}:"
                f" {steps} steps of {languages_per_step}. Train for fewer steps (`max_steps`,"
                " `num_train_epochs`), or raise `sampling_max_epochs`."
            )

        return [_equal_shares(total, caps)]


def _equal_shares(total: int, caps: Mapping[Language, int]) -> Counts:
    """Whole shares of `total`, as equal as the caps, which have room for it, allow."""
    counts: Counts = {}
    left = total

    # `sorted` is stable: of equal caps, the language that comes first is first.
    ascending = sorted(caps, key=lambda key: caps[key])
    for position, key in enumerate(ascending):
        free = len(ascending) - position
        if caps[key] * free > left:
            break
        counts[key] = caps[key]
        left -= caps[key]

    # The others have room for an equal share. Rounded up, it is no more than the least of their
    # caps: that is a whole number of at least left / free.
    uncapped = [key for key in caps if key not in counts]
    for position, key in enumerate(uncapped):
        counts[key] = left // len(uncapped) + (position < left % len(uncapped))

    return {key: counts[key] for key in caps}
