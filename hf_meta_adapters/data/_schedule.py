"""Which languages each step holds."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data.seeding import stable_seed


def language_schedule(
    counts: Mapping[Language, int], languages_per_step: int, *, seed: tuple[object, ...]
) -> Iterator[list[Language]]:
    """Draw k distinct languages for each of T steps, so that language l is in exactly c_l steps.

    With R steps left, r_l of which must hold language l, the step draws k languages with inclusion
    probabilities r_l / R by systematic sampling (Madow, 1949): the languages, in random order,
    cover intervals of lengths r_l on a line of length k · R, and those that hold one of the points
    u, u + R, u + 2R, … are taken, u uniform in 0, …, R − 1. As r_l ≤ R, no interval holds two
    points. An interval with r_l = R holds exactly one, so r_l ≤ R − 1 afterwards in every case, and
    the counts come out exactly. Every step is in expectation the same mixture, Pr(l in step) =
    c_l / T.

    Args:
        counts: c_l ≤ T, which sum to T · k.
        languages_per_step: k.
        seed: Parts of the seed.

    Yields:
        The languages of a step, in the order of `counts`.
    """
    left = dict(counts)
    draw = random.Random(stable_seed(*seed)).random
    steps = sum(counts.values()) // languages_per_step

    for steps_left in range(steps, 0, -1):
        order = sorted(left, key=lambda _: draw())

        # [s, s + r) holds a point u + m·R exactly if ⌊(s − 1 − u) / R⌋ < ⌊(s + r − 1 − u) / R⌋;
        # so the ends of the intervals are counted from −1 − u.
        end = -1 - int(draw() * steps_left)
        taken = set()
        for language in order:
            start, end = end, end + left[language]
            if start // steps_left < end // steps_left:
                taken.add(language)

        for language in taken:
            left[language] -= 1
        yield [language for language in left if language in taken]
