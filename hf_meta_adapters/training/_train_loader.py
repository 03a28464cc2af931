"""The loader of step batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch.utils.data import DataLoader

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.data import LanguageBatchSampler, LanguageCollator, LanguageDatasets
from hf_meta_adapters.data.key import Keyed, Role
from hf_meta_adapters.data.language_datasets import size_of
from hf_meta_adapters.data.row_lengths import Lengths
from hf_meta_adapters.data.step_partition import StepPartition
from hf_meta_adapters.training._given_data import Datasets
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments
from hf_meta_adapters.training.default_collator import Collator


def train_sampler(
    datasets: Mapping[Role, Datasets],
    args: MetaAdapterTrainingArguments,
    batch_size: int,
    order: bool | Lengths,
) -> LanguageBatchSampler:
    """The sampler of step batches: which rows of which languages each step of this process holds.

    Args:
        datasets: role → language → data. If both roles have the same object, for all languages or
            for one, its rows are dealt to both.
        args: Meta batch size, sampling, seed and processes.
        batch_size: Training rows per language, process and micro-step.
        order: Whether rows are shuffled, or the lengths by which they are grouped.

    Returns:
        The sampler.
    """
    sizes = {role: _sizes(by_language) for role, by_language in datasets.items()}

    # Without sizes, the steps asked for are the epoch.
    steps_per_epoch = None
    if None in sizes["train"].values() and args.max_steps > 0:
        steps_per_epoch = args.max_steps

    # `seed` is that of dropout and fresh weights as well: `data_seed` keeps the data apart.
    seed = args.data_seed
    if seed is None:
        seed = args.seed

    meta_sizes: Mapping[Language, int | None] | Literal["train"] | tuple[Language, ...] | None
    train, meta = datasets["train"], datasets.get("meta")
    meta_sizes = sizes.get("meta")
    if meta is train:
        meta_sizes = "train"
    elif meta and all(rows is train.get(key) for key, rows in meta.items()):
        meta_sizes = tuple(meta)

    return LanguageBatchSampler(
        sizes["train"],
        meta_sizes,
        meta_in_every_step=args.meta_options().named_meta_languages() is not None,
        batch_size=batch_size,
        meta_batch_size=args.meta_batch_size,
        languages_per_step=args.languages_per_step,
        alpha=args.sampling_alpha,
        sampling_weights=args.sampling_plan(),
        seed=seed,
        steps_per_epoch=steps_per_epoch,
        partition=StepPartition(
            rank=args.process_index,
            world_size=args.world_size,
            accumulation_steps=args.gradient_accumulation_steps,
        ),
        shuffle=order,
    )


def train_dataloader(
    datasets: Mapping[Role, Datasets],
    sampler: LanguageBatchSampler,
    collator: Collator,
    args: MetaAdapterTrainingArguments,
    check: Callable[[Role, Language, Batch], None],
) -> DataLoader[Keyed]:
    """The loader of step batches: for each language a batch of training rows, and one of meta rows.

    Args:
        datasets: role → language → data.
        sampler: What each step holds.
        collator: Makes a batch of examples.
        args: Seed and workers.
        check: Called with role, language and batch; raises where that cannot work.

    Returns:
        The loader.
    """
    return DataLoader(
        LanguageDatasets(datasets),
        batch_sampler=sampler,
        collate_fn=LanguageCollator(collator, args.seed, check),
        # A loader draws from its generator, how often depends on workers and resumes: one that is
        # its own keeps the dropout masks where they were.
        generator=torch.Generator().manual_seed(args.seed),
        num_workers=args.dataloader_num_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        persistent_workers=args.dataloader_persistent_workers,
        multiprocessing_context=vars(args).get("dataloader_multiprocessing_context"),
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
    )


def _sizes(datasets: Datasets) -> dict[Language, int | None]:
    return {language: size_of(dataset) for language, dataset in datasets.items()}
