"""Random numbers of the first rows of a batch that do not depend on how many rows follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hf_meta_adapters.meta.random_state import RandomState
from hf_meta_adapters.meta.sampled_losses import IndivisiblePassError

_DROPOUTS = (functional.dropout, torch.dropout)
_DROPOUT = ("input", "p", "training")
_ATTENTION = ("query", "key", "value", "attn_mask", "dropout_p")


class DividedNoise(TorchFunctionMode):
    """A context in which dropout draws its masks for the first rows, and then for the others.

    The first rows take theirs from the generator as it is, and so get the masks that they have in a
    batch of their own; the others from the state that follows `apart`. Attention with dropout is
    computed for the two parts one after the other.

    Args:
        first: How many rows come first.
        rows: How many rows the batch has.
        device: Where the model is.

    Raises:
        IndivisiblePassError: If a pass draws random numbers in any other way.
    """

    def __init__(self, first: int, rows: int, device: torch.device) -> None:
        super().__init__()
        self._first = first
        self._rows = rows
        self._device = device

        # The state for the other rows, by that for the first: a loss may begin again.
        start = RandomState.now(device)
        self._others = {start.digest(): start.apart()}

    def check(self) -> None:
        """Check that nothing else has drawn from the generator.

        Raises:
            IndivisiblePassError: If it has.
        """
        self._other_state()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch, twice if it draws masks."""
        given = dict(kwargs or {})
        if not _draws(func, args, given):
            return func(*args, **given)

        inputs = args[0] if args else next(iter(given.values()))
        if len(inputs) != self._rows or inputs.device != self._device or given.get("inplace"):
            raise IndivisiblePassError

        if func in _DROPOUTS and inputs.is_contiguous() and inputs.device.type == "cpu":
            share = 1 - _named(_DROPOUT, args, given).get("p", 0.5)
            if share > 0 and _draws_into_memory(inputs.dtype):
                return self._dropout(inputs, share)

        (first_args, first_given), (other_args, other_given) = self._parts(
            args, given, inputs.dim()
        )
        others = self._other_state()
        ahead = func(*first_args, **first_given)
        with self._for_others(others):
            behind = func(*other_args, **other_given)
        return torch.cat([ahead, behind])

    def _dropout(self, inputs: Tensor, share: float) -> Tensor:
        """Dropout with masks in one tensor, without a copy of what two calls return."""
        others = self._other_state()
        noise = torch.empty_like(inputs)

        noise[: self._first].bernoulli_(share)
        with self._for_others(others):
            noise[self._first :].bernoulli_(share)
        return inputs * noise.div_(share)

    @contextmanager
    def _for_others(self, others: RandomState) -> Iterator[None]:
        """A context in which the other rows draw, after the first ones have."""
        state = RandomState.now(self._device)
        others.set()
        yield
        self._others[state.digest()] = RandomState.now(self._device)
        state.set()

    def _other_state(self) -> RandomState:
        others = self._others.get(RandomState.now(self._device).digest())
        if others is None:
            raise IndivisiblePassError
        return others

    def _parts(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], dim: int
    ) -> list[tuple[list[Any], dict[str, Any]]]:
        """The arguments of both parts: what has an entry for each row is split, the rest shared."""

        def split(value: Any) -> Sequence[Any]:
            has_rows = isinstance(value, Tensor) and value.dim() == dim
            if has_rows and len(value) == self._rows:
                # one operation whose gradient is put together, not added to zeros as of a slice
                return value.split([self._first, self._rows - self._first])
            return value, value

        values = [split(value) for value in args]
        named = {name: split(value) for name, value in kwargs.items()}
        return [
            ([both[part] for both in values], {name: both[part] for name, both in named.items()})
            for part in (0, 1)
        ]


def _draws(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call draws masks of dropout, in a way that is known here."""
    if func in _DROPOUTS:
        named = _named(_DROPOUT, args, kwargs)
        # `torch.dropout` calls it `train`, and has no defaults
        is_training = named.get("training", named.get("train", True))
        return bool(is_training) and named.get("p", 0.5) > 0

    if func is functional.scaled_dot_product_attention:
        return _named(_ATTENTION, args, kwargs).get("dropout_p", 0.0) > 0

    return False


def _named(
    names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by name."""
    return dict(zip(names, args, strict=False)) | dict(kwargs)


@cache
def _draws_into_memory(dtype: torch.dtype) -> bool:
    """Whether dropout on a CPU is x ⊙ b / (1 − p) with b from `bernoulli_`, as in all releases.

    No interface promises that. Were it otherwise, the first rows would get other masks than in a
    batch of their own, and a finite difference would measure the masks.
    """
    ones = torch.ones(4, 9, dtype=dtype)
    with torch.random.fork_rng(devices=[]):
        state = torch.get_rng_state()
        expected = torch.dropout(ones, 0.3, True)
        after = torch.get_rng_state()

        torch.set_rng_state(state)
        found = ones * torch.empty_like(ones).bernoulli_(0.7).div_(0.7)
        return torch.equal(found, expected) and torch.equal(torch.get_rng_state(), after)
