"""Random numbers of the first rows of a batch that do not depend on how many rows follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hf_meta_adapters.meta.random_state import RandomState
from hf_meta_adapters.meta.sampled_losses import IndivisiblePassError

_DROPOUTS = (functional.dropout, torch.dropout)


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

        others = self._other_state()
        (first_args, first_given), (other_args, other_given) = self._parts(
            args, given, inputs.dim()
        )
        ahead = func(*first_args, **first_given)
        state = RandomState.now(self._device)

        others.set()
        behind = func(*other_args, **other_given)
        self._others[state.digest()] = RandomState.now(self._device)
        state.set()
        return torch.cat([ahead, behind])

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
        named = dict(zip(("input", "p", "training"), args, strict=False)) | dict(kwargs)
        # `torch.dropout` calls it `train`, and has no defaults
        is_training = named.get("training", named.get("train", True))
        return bool(is_training) and named.get("p", 0.5) > 0

    if func is functional.scaled_dot_product_attention:
        names = ("query", "key", "value", "attn_mask", "dropout_p")
        named = dict(zip(names, args, strict=False)) | dict(kwargs)
        return named.get("dropout_p", 0.0) > 0

    return False
