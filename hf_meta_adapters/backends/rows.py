"""A batch with rows in several languages: its rows by language, and outputs put back together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError

Nested = TypeVar("Nested")
"""A tensor, mappings and sequences of tensors, or anything else, which is left alone."""

_RULE = "Rows of several languages share a forward pass only if the outputs have an entry per row."


def rows_by_language(languages: Sequence[Language]) -> dict[Language, list[int]]:
    """Compute the numbers of the rows of each language, in the order of first appearance.

    Example:
        >>> rows_by_language(["en", "sw", "en"])
        {'en': [0, 2], 'sw': [1]}
    """
    rows: dict[Language, list[int]] = {}
    for row, language in enumerate(languages):
        rows.setdefault(language, []).append(row)

    return rows


def count_rows(inputs: Mapping[Any, object], main: str = "input_ids") -> int:
    """Count the rows of a batch: the length of the main input, or else of the first tensor.

    Args:
        inputs: The inputs of a forward pass.
        main: The name of the model's main input.

    Returns:
        The number of rows; 0 if no input has any.
    """
    for value in (inputs.get(main), *inputs.values()):
        if isinstance(value, Tensor) and value.dim() > 0:
            return len(value)

    return 0


def check_row_count(languages: Sequence[Language], rows: int) -> None:
    """Refuse a list of languages that does not have one for each row of a batch."""
    if len(languages) != rows:
        raise ConfigurationError(
            "`language` must be one key, or a list with one key for each row of the batch. Found"
            f" {len(languages)} for {rows} rows. Pass as many keys as rows."
        )


@contextmanager
def naming_rows(layers: Sequence[nn.Module], names: Sequence[str]) -> Iterator[None]:
    """A context in which layers of PEFT are told which adapter each row takes.

    PEFT has such a context, but its hooks stay behind when the forward pass fails.

    Args:
        layers: The layers.
        names: The adapter of each row.
    """
    add_names = partial(_add_names, names=names)
    handles = [layer.register_forward_pre_hook(add_names, with_kwargs=True) for layer in layers]

    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add_names(
    _: nn.Module,
    args: tuple[object, ...],
    kwargs: dict[str, object],
    names: Sequence[str],
) -> tuple[tuple[object, ...], dict[str, object]]:
    return args, {**kwargs, "adapter_names": names}


def take_rows(value: Nested, rows: Sequence[int], count: int) -> Nested:
    """Take rows of all tensors in a nested input; whatever does not have `count` rows stays.

    Args:
        value: A tensor, mappings and sequences of tensors, or anything else.
        rows: The numbers of the rows.
        count: The rows of the batch.

    Returns:
        The same structure with these rows.
    """
    nested: Any = value
    if not isinstance(nested, Tensor):
        return _rebuilt(nested, lambda _, item: take_rows(item, rows, count))

    # tables and masks that all rows share have another length
    if nested.dim() > 0 and len(nested) == count:
        nested = nested[list(rows)]

    return nested


def put_together(
    parts: Sequence[Nested], rows: Sequence[Sequence[int]], name: str = "the output"
) -> Nested:
    """Put the outputs of the parts of a batch together as the output of the whole batch.

    Args:
        parts: One output for each part, all of the same structure.
        rows: The numbers of the rows of each part.
        name: What to call the output in an error.

    Returns:
        The output, of the type of its parts.

    Raises:
        ConfigurationError: If something in it does not have one entry for each row.
    """
    outputs: Any = parts
    first = outputs[0]
    if isinstance(first, Tensor):
        together: Any = _scattered(outputs, rows, name)
        return together

    # settings, not results: they are the same for all parts
    if first is None or isinstance(first, (bool, int, float, str)):
        return parts[0]

    if isinstance(first, (Mapping, tuple, list)):

        def put_entry_together(key: Any, _: object) -> object:
            entries = [output[key] for output in outputs]
            return put_together(entries, rows, f"{name}[{key!r}]")

        return _rebuilt(first, put_entry_together)

    raise ConfigurationError(
        f"{_RULE} Found {name}, a `{type(first).__name__}`. Switch that output off"
        " (`use_cache=False` for a cache of keys), or run one language at a time."
    )


def put_texts_together(
    parts: Sequence[Tensor], rows: Sequence[Sequence[int]], padding: int | Sequence[int]
) -> Tensor:
    """Put texts generated for parts of a batch together, shorter ones padded at the end.

    Args:
        parts: For each part a tensor of shape (k · rows of the part, tokens): k texts a row.
        rows: The numbers of the rows of each part.
        padding: The token that fills shorter texts up; the first if several are given.

    Returns:
        The texts in the order of the rows, those of one row together.
    """
    if not isinstance(padding, int):
        padding = padding[0]

    longest = max(part.shape[1] for part in parts)
    by_row = []
    for part, part_rows in zip(parts, rows, strict=True):
        texts = torch.nn.functional.pad(part, (0, longest - part.shape[1]), value=padding)
        by_row.append(texts.unflatten(0, (len(part_rows), -1)))  # (rows, k, longest)

    return _scattered(by_row, rows, "the texts").flatten(0, 1)


def _scattered(parts: Sequence[Tensor], rows: Sequence[Sequence[int]], name: str) -> Tensor:
    """The tensor with `parts[i]` in the places `rows[i]`."""
    first = parts[0]
    for part, part_rows in zip(parts, rows, strict=True):
        has_row_entries = part.dim() > 0 and len(part) == len(part_rows)
        if not has_row_entries or part.shape[1:] != first.shape[1:]:
            raise ConfigurationError(
                f"{_RULE} Found {name} of shape {tuple(part.shape)} for {len(part_rows)} rows,"
                f" where another part has {tuple(first.shape)}. Leave out the labels if it is a"
                " loss, or run one language at a time."
            )

    # row numbers[i] of the whole is row i of the parts, so the inverse permutation sorts them
    numbers = [row for part_rows in rows for row in part_rows]
    order = torch.tensor(numbers, device=first.device)
    return torch.cat(list(parts))[torch.argsort(order)]


def _rebuilt(value: Any, change: Callable[[Any, Any], object]) -> Any:
    """A container of the same type with changed values; anything else as it is.

    Args:
        value: The container.
        change: Maps the key and the value of an entry to the new value.
    """
    container = type(value)
    if isinstance(value, ModelOutput):
        # a dataclass with the interface of a dictionary: only its fields are arguments
        return container(**{key: change(key, item) for key, item in value.items()})

    if isinstance(value, Mapping):
        return container({key: change(key, item) for key, item in value.items()})

    if isinstance(value, (tuple, list)):
        changed = [change(position, item) for position, item in enumerate(value)]
        is_named_tuple = hasattr(value, "_fields")  # whose constructor takes one argument a field
        if is_named_tuple:
            return container(*changed)
        return container(changed)

    return value
