"""Which languages each step of an epoch holds."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data._streams import stable_seed


def language_schedule(
    counts: Mapping[Language, int], steps: int, per_step: int, *, seed: tuple[object, ...]
) -> list[list[Language]]:
    """A random order in which language l is in exactly `counts[l]` steps and no step holds a language twice.

    Systematic sampling: the languages, in random order, are laid end to end on a circle of `steps` places, round and
    round. Language l covers `counts[l]` ≤ `steps` consecutive places, hence none twice, and every place is covered
    `per_step` times, since the counts sum to `steps` · `per_step`. The places are then taken in random order.

    Args:
        counts: In how many steps each language is; they sum to `steps` · `per_step`.
        steps: The number of steps.
        per_step: How many languages a step holds.
        seed: Parts of the seed.

    Returns:
        The languages of each step, in the order of `counts`.
    """
    generator = torch.Generator().manual_seed(stable_seed(*seed))
    languages = list(counts)
    circle: list[list[Language]] = [[] for _ in range(steps)]
    place = 0
    for index in torch.randperm(len(languages), generator=generator).tolist():
        for _ in range(counts[languages[index]]):
            circle[place % steps].append(languages[index])
            place += 1
    rank = {key: index for index, key in enumerate(languages)}
    order = torch.randperm(steps, generator=generator).tolist()
    return [sorted(circle[index], key=rank.__getitem__) for index in order]
