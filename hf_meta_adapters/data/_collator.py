"""From the examples of a step to its batches: one for each role and language, made by any collator of the user's."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.data._dataset import Keyed
from hf_meta_adapters.data._sampler import Role
from hf_meta_adapters.data._streams import stable_seed

StepBatch: TypeAlias = dict[Role, dict[Language, Batch]]
"""role → language → batch."""


class LanguageCollator:
    """Calls a collator once for each role and language of a step.

    Random numbers that the collator draws (the masks of masked language modelling) are seeded by the rows of the batch
    and put back afterwards: a batch is the same whichever worker, process or resumed run makes it, and making it
    leaves the random state of training alone.

    Args:
        data_collator: A function from a list of examples to a batch, such as `DataCollatorForLanguageModeling`.
        seed: The seed.
    """

    def __init__(self, data_collator: Callable[[list[Any]], Batch], seed: int = 0) -> None:
        self.data_collator = data_collator
        self._seed = seed

    def __call__(self, keyed: Sequence[Keyed]) -> StepBatch:
        """Collate the examples of a step.

        Args:
            keyed: Examples with their keys.

        Returns:
            role → language → batch, in the order in which they come.
        """
        groups: dict[tuple[Role, Language], list[Keyed]] = {}
        for key, example in keyed:
            groups.setdefault((key.role, key.language), []).append((key, example))
        step: StepBatch = {}
        for (role, language), group in groups.items():
            with seeded(stable_seed(self._seed, role, language, *(key.index for key, _ in group))):
                step.setdefault(role, {})[language] = self.data_collator([example for _, example in group])
        return step


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A context whose random numbers (torch on the CPU, numpy, Python) start from `seed` and leave no trace."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
