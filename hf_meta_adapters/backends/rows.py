"""One batch whose rows are in several languages: its rows by language, and the outputs put together again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError

_RULE = (
    "Rows of several languages can share a forward pass if the outputs have one entry for each row."
)


def rows_by_language(languages: Sequence[Language]) -> dict[Language, list[int]]:
    """The numbers of the rows of each language, in the order in which the languages first come.

    Example:
        >>> rows_by_language(["en", "sw", "en"])
        {'en': [0, 2], 'sw': [1]}
    """
    return {
        key: [row for row, other in enumerate(languages) if other == key]
        for key in dict.fromkeys(languages)
    }


@contextmanager
def naming_rows(layers: Sequence[nn.Module], names: Sequence[str]) -> Iterator[None]:
    """A context in which layers of PEFT are told which adapter each row takes.

    PEFT's own context leaves its hooks behind when the forward pass fails.

    Args:
        layers: The layers.
        names: The adapter of each row.
    """
    route = partial(_name_rows, names=names)
    handles = [layer.register_forward_pre_hook(route, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _name_rows(
    _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str]
) -> tuple[Any, Any]:
    return args, {**kwargs, "adapter_names": names}


def take_rows(value: Any, rows: Sequence[int], count: int) -> Any:
    """Some rows of all tensors in a nested input; what has not `count` rows is left as it is.

    Args:
        value: A tensor, or mappings and sequences of such, or anything else.
        rows: Which rows.
        count: The rows of the batch.

    Returns:
        The same with these rows.
    """
    if isinstance(value, Tensor):
        return value[list(rows)] if value.dim() > 0 and len(value) == count else value
    return _rebuilt(value, lambda _, one: take_rows(one, rows, count))


def put_together(
    parts: Sequence[Any], rows: Sequence[Sequence[int]], name: str = "the output"
) -> Any:
    """The outputs of the parts of a batch as the output of the whole.

    Args:
        parts: One output for each part, alike in structure.
        rows: The rows of each part.
        name: What it is, for the message.

    Returns:
        The output, of the type of its parts.

    Raises:
        ConfigurationError: If something in it does not have one entry for each row.
    """
    first = parts[0]
    if isinstance(first, Tensor):
        return _scattered(parts, rows, name)
    if first is None or isinstance(first, (bool, int, float, str)):
        return first
    if isinstance(first, (Mapping, tuple, list)):
        return _rebuilt(
            first,
            lambda key, _: put_together([part[key] for part in parts], rows, f"{name}[{key!r}]"),
        )
    raise ConfigurationError(
        f"{_RULE} Found {name}, a `{type(first).__name__}`. Ask for no such output"
        " (`use_cache=False` for a cache of keys), or run one language at a time."
    )


def put_texts_together(
    parts: Sequence[Tensor], rows: Sequence[Sequence[int]], padding: int | Sequence[int]
) -> Tensor:
    """The texts generated for parts of a batch as those of the whole, shorter ones filled up at the end.

    Args:
        parts: (as many texts as rows, or a multiple, tokens), one for each part.
        rows: The rows of each part.
        padding: What they are filled up with; the first of several.

    Returns:
        The texts in the order of the rows, those of one row together.
    """
    filler = padding if isinstance(padding, int) else padding[0]
    longest = max(part.shape[1] for part in parts)
    filled = [
        torch.nn.functional.pad(part, (0, longest - part.shape[1]), value=filler) for part in parts
    ]
    grouped = [part.unflatten(0, (len(own), -1)) for part, own in zip(filled, rows, strict=True)]
    return _scattered(grouped, rows, "the texts").flatten(0, 1)


def _scattered(parts: Sequence[Tensor], rows: Sequence[Sequence[int]], name: str) -> Tensor:
    for part, own in zip(parts, rows, strict=True):
        if part.dim() == 0 or len(part) != len(own) or part.shape[1:] != parts[0].shape[1:]:
            raise ConfigurationError(
                f"{_RULE} Found {name} of shape {tuple(part.shape)} for {len(own)} rows, beside"
                f" {tuple(parts[0].shape)}. Leave out the labels if it is a loss, or run one"
                " language at a time."
            )
    order = torch.tensor([row for own in rows for row in own], device=parts[0].device)
    together = torch.cat(list(parts))
    return together[torch.argsort(order)]


def _rebuilt(value: Any, change: Any) -> Any:
    """A container of the same type with changed values; anything else as it is."""
    kind: Any = type(value)
    if isinstance(value, Mapping):
        changed = {key: change(key, one) for key, one in value.items()}
        return kind(**changed) if hasattr(value, "to_tuple") else kind(changed)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return kind(*(change(key, one) for key, one in enumerate(value)))
    if isinstance(value, (tuple, list)):
        return kind(change(key, one) for key, one in enumerate(value))
    return value
