"""How many labels a batch has, known on the host: a step need not wait for a device to tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from hf_meta_adapters._typing import IGNORED_LABEL, Batch

# Weak, so that a count ends with its batch.
_COUNTED = WeakTensorKeyDictionary()


class LabelCount(NamedTuple):
    """The labels of a batch.

    Attributes:
        first: Those at the first place of a row, which do not count where labels are shifted.
        others: All others; the rows of a batch that has no `labels`.
    """

    first: int
    others: int


def counted(batch: Batch) -> LabelCount:
    """Count the labels of a batch, once as long as they do not change.

    Args:
        batch: The batch.

    Returns:
        The count.
    """
    labels = batch.get("labels")
    if not isinstance(labels, Tensor):
        return LabelCount(0, _rows(batch))

    version, count = _COUNTED.get(labels, (None, None))
    if count is None or version != labels._version:
        count = _count(labels)
        _remember(labels, count)
    return count


def pass_counts_on(on_host: Mapping[str, object], on_device: Mapping[str, object]) -> None:
    """Count the labels of batches on the host, for their copies on a device.

    Args:
        on_host: Batches, in mappings of mappings of any depth.
        on_device: Their copies, arranged likewise.
    """
    for name, entry in on_host.items():
        copy = on_device.get(name)
        if isinstance(entry, Mapping) and isinstance(copy, Mapping):
            pass_counts_on(entry, copy)

        elif name == "labels" and isinstance(entry, Tensor) and isinstance(copy, Tensor):
            _remember(copy, counted(on_host))


def _remember(labels: Tensor, count: LabelCount) -> None:
    # Changes of tensors that were made in inference mode are not tracked.
    if not labels.is_inference():
        _COUNTED[labels] = labels._version, count


def _count(labels: Tensor) -> LabelCount:
    is_label = labels != IGNORED_LABEL
    if labels.dim() != 2 or labels.is_floating_point():
        return LabelCount(0, int(is_label.sum()))

    # together: on a device, each number would be waited for
    first, total = torch.stack([is_label[:, :1].sum(), is_label.sum()]).tolist()
    return LabelCount(first, total - first)


def _rows(batch: Batch) -> int:
    """The rows of a batch; question answering, for example, has positions in place of labels."""
    for value in batch.values():
        if isinstance(value, Tensor) and value.dim():
            return len(value)
    return 1
