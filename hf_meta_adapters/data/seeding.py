"""Random numbers as a function of names and numbers, the same in all processes and machines."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray


def stable_seed(*parts: object) -> int:
    """Hash the parts to a seed below 2⁶³ that, unlike `hash`, is the same in every process."""
    # The unit separator keeps ("a", "bc") and ("ab", "c") apart.
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()

    # One bit less than 8 bytes hold: the seed fits a signed 64-bit integer.
    return int.from_bytes(digest[:8], "big") >> 1


def stable_seeds(part: object, others: Iterable[str]) -> NDArray[np.uint64]:
    """Compute `stable_seed(part, other)` for each of many others.

    Args:
        part: The first part of each seed.
        others: The second parts.

    Returns:
        The seeds, (n,).
    """
    common = hashlib.sha256(f"{part}\x1f".encode())

    def numbers() -> Iterator[int]:
        for other in others:
            each = common.copy()
            each.update(other.encode())
            yield int.from_bytes(each.digest()[:8], "big")

    return np.fromiter(numbers(), np.uint64) >> np.uint64(1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A context whose random numbers (torch on the CPU, numpy, Python) start from `seed`.

    The states of the three generators are restored at the end. Random numbers of accelerators are
    left alone: the dropout masks of training continue as if nothing had happened.

    Args:
        seed: The seed.

    Returns:
        The context.

    Example:
        >>> with seeded(3):
        ...     first = torch.rand(2)
        >>> with seeded(3):
        ...     torch.equal(torch.rand(2), first)
        True
    """
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    python_state = random.getstate()

    # Not `torch.manual_seed`, which would seed the accelerators as well.
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # numpy's global generator takes 32 bits
    random.seed(seed)

    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
