"""Whether rows that will be scored during training have labels, as far as one batch can tell."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

from hf_meta_adapters.data.fingerprint import first_rows
from hf_meta_adapters.data.seeding import seeded
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.training._given_data import without_sets


def check_labeled(eval_dataset: object, collator: object, label_names: Sequence[str]) -> None:
    """Make a batch of the first row of each language, and look for its labels.

    Args:
        eval_dataset: language → data, of one set or of several.
        collator: The collator.
        label_names: The entries of a batch that are labels.

    Raises:
        DataError: If a language has none; now, and not at the first evaluation.
    """
    datasets = without_sets(eval_dataset)
    if not isinstance(datasets, Mapping) or not callable(collator):
        return

    unlabeled = []
    for language, dataset in datasets.items():
        batch = _first_batch(dataset, collator)
        if isinstance(batch, Mapping) and not all(name in batch for name in label_names):
            unlabeled.append(language)

    if unlabeled:
        raise DataError(
            f"Rows that are scored must have labels, {[*label_names]}. Found none in `eval_dataset`"
            f" of {unlabeled}. Give the rows labels, pass a `processing_class` or a `data_collator`"
            ' that makes them, or leave evaluation out: `eval_strategy="no"`.'
        )


def _first_batch(dataset: object, collator: Callable[[object], object]) -> object:
    """A batch of one row; `None` where there is none."""
    # Whatever reading or collating raises, the first evaluation will meet it and say more.
    try:
        with seeded(0):
            # Copies: its own generator must not move on, and it may take rows apart.
            return copy.deepcopy(collator)(copy.deepcopy(first_rows(dataset, 1)))
    except Exception:
        return None
