"""What the Trainer trains on: the roles of the data it was given, and the loader of step batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data import (
    LanguageBatchSampler,
    LanguageCollator,
    LanguageDatasets,
    check_roles,
    size_of,
    split_roles,
)
from hf_meta_adapters.errors import DataError, check_known_language
from hf_meta_adapters.training_args import MetaAdapterTrainingArguments

Datasets = Mapping[Language, Any]


def assign_roles(
    languages: Sequence[Language],
    train: Datasets,
    meta: Datasets | None,
    selection: Datasets | None,
    *,
    needs_meta: bool,
) -> tuple[Datasets, Datasets | None]:
    """Check the data of all roles, and split meta text off the training text if it is needed and was not given.

    Args:
        languages: Those of the model.
        train: The training data.
        meta: The meta data, if the user has some.
        selection: The selection data, if there is any.
        needs_meta: Whether training takes meta-gradients.

    Returns:
        Training and meta data.

    Raises:
        LanguageError: If the model does not have a language.
        DataError: If a role is malformed, or roles overlap.
    """
    for several in (train, meta or {}, selection or {}):
        if not isinstance(several, Mapping):
            raise DataError(
                f"Data sets are given by language, as a dict. Found one of type `{type(several).__name__}`. Write "
                '`train_dataset={"en": ..., "sw": ...}`.'
            )
        for key in several:
            check_known_language(key, languages)
    if not needs_meta:
        check_roles(train, None, selection)
        return train, None
    check_roles(train, meta, selection)
    if meta is not None:
        return train, meta
    parts = split_roles(train)
    return parts.train, parts.meta


def train_dataloader(
    datasets: Mapping[Any, Datasets], collator: Callable[[list[Any]], Any], args: MetaAdapterTrainingArguments
) -> DataLoader[Any]:
    """The loader of step batches: for each language of a step a batch of training rows, and one of meta rows.

    Args:
        datasets: role → language → data.
        collator: Makes a batch of examples.
        args: Batch sizes, temperature, seed and processes.

    Returns:
        The loader, whose `batch_sampler` is a `LanguageBatchSampler`.
    """
    sizes = {role: {key: size_of(one) for key, one in several.items()} for role, several in datasets.items()}
    streaming = None in sizes["train"].values()
    sampler = LanguageBatchSampler(
        sizes["train"],
        sizes.get("meta"),
        batch_size=args.per_device_train_batch_size,
        meta_batch_size=args.meta_batch_size,
        languages_per_step=args.languages_per_step,
        alpha=args.sampling_temperature,
        seed=args.seed if args.data_seed is None else args.data_seed,
        steps_per_epoch=args.max_steps if streaming and args.max_steps > 0 else None,
        accumulation_steps=args.gradient_accumulation_steps,
        rank=args.process_index,
        world_size=args.world_size,
    )
    return DataLoader(
        LanguageDatasets(datasets),
        batch_sampler=sampler,
        collate_fn=LanguageCollator(collator, args.seed),
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
    )
