"""The settings that decide which rows a run reads in which order; a resumed run must share them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data.language_datasets import size_of
from hf_meta_adapters.training._dataset_roles import Datasets, by_language
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

_RENAMED = {"sampling_temperature": "sampling_alpha"}
"""Name in checkpoints of earlier versions → name today."""


def run_settings(
    languages: Sequence[Language],
    train: Datasets | None,
    meta: Datasets | None,
    args: MetaAdapterTrainingArguments,
) -> dict[str, object]:
    """The settings of a run, JSON.

    Args:
        languages: The languages of the model.
        train: The training data.
        meta: The meta data, if there is any.
        args: Batch sizes, sampling and seeds.

    Returns:
        name → value.

    Raises:
        DataError: If there is no training data by language.
    """
    roles: dict[str, Datasets] = {"train": by_language("train_dataset", train)}
    if meta is not None:
        roles["meta"] = meta
    sizes = {role: _sizes(datasets) for role, datasets in roles.items()}

    # The product counts, not its factors: a run may continue on other devices.
    processes_and_micro_steps = args.gradient_accumulation_steps * args.world_size
    train_rows = args.per_device_train_batch_size
    per_device = {"train": train_rows, "meta": args.meta_batch_size or train_rows}
    rows = {role: per_device[role] * processes_and_micro_steps for role in roles}

    # The length of an epoch of streams: it places the languages where a step does not hold all.
    max_steps = None
    if None in sizes["train"].values() and args.languages_per_step:
        max_steps = args.max_steps

    return {
        "languages": list(languages),
        "rows of the data": sizes,
        "rows per language and step": rows,
        "languages_per_step": args.languages_per_step,
        "sampling_alpha": args.sampling_alpha,
        "seed": args.seed,
        "data_seed": args.data_seed,
        "max_steps": max_steps,
    }


def current_names(settings: Mapping[str, object]) -> dict[str, object]:
    """Recorded settings under the names of this version."""
    return {_RENAMED.get(name, name): value for name, value in settings.items()}


def _sizes(datasets: Datasets) -> dict[Language, int | None]:
    return {language: size_of(dataset) for language, dataset in sorted(datasets.items())}
