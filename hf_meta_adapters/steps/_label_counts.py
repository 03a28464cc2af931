"""How many labels a language has, in each micro-batch and on all processes together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hf_meta_adapters._typing import AllReduce, Batch, Language
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.losses import label_count


def label_counts(
    model: LanguageAdapterModel, batches: Mapping[Language, Sequence[Batch]]
) -> dict[Language, Tensor]:
    """The labels in each micro-batch of this process, by language, of shape (micro-batches)."""
    return {
        key: torch.stack([label_count(model, batch) for batch in language_batches])
        for key, language_batches in batches.items()
    }


def total_counts(
    counts: Mapping[Language, Tensor], all_reduce: AllReduce | None
) -> dict[Language, Tensor]:
    """The labels of each language in all micro-batches of all processes, 0-d."""
    # one message for all languages
    totals = torch.stack([count.sum() for count in counts.values()])
    if all_reduce is not None:
        all_reduce(totals)
    return dict(zip(counts, totals, strict=True))
