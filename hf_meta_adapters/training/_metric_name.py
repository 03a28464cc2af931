"""Whether the metric that chooses the best model is one that evaluation gives."""

from __future__ import annotations

import difflib

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.training._given_data import Datasets, named_sets


def check_metric_name(name: str | None, eval_dataset: Datasets | None) -> None:
    """Check `metric_for_best_model` where losses and speeds are all that is measured.

    Args:
        name: The argument, with `eval_` before it or without.
        eval_dataset: The evaluation data.

    Raises:
        ConfigurationError: If evaluation will give no such metric; now, and not at the first one.
    """
    if name is None or not eval_dataset:
        return

    sets = named_sets(eval_dataset)
    prefixes = {"eval": eval_dataset}
    if sets is not None:
        prefixes = {f"eval_{key}": datasets for key, datasets in sets.items()}

    losses, speeds = [], []
    for prefix, datasets in prefixes.items():
        losses += [f"{prefix}_loss", *(f"{prefix}_{language}_loss" for language in datasets)]
        speeds += [f"{prefix}_runtime", f"{prefix}_samples_per_second"]
        speeds.append(f"{prefix}_steps_per_second")

    wanted = f"eval_{name.removeprefix('eval_')}"
    if wanted in losses or wanted in speeds:
        return

    nearest = difflib.get_close_matches(wanted, losses, n=1)
    hint = ""
    if nearest:
        hint = f" Did you mean {nearest[0]!r}?"
    raise ConfigurationError(
        f"`metric_for_best_model` must be a metric of the evaluation: {losses}. Found {name!r}."
        f"{hint} Another metric needs a `compute_metrics` that returns it, and"
        " `prediction_loss_only=False`."
    )
