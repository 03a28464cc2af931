"""What the Trainer is given: checks of model, arguments and data, the roles of the data, and the loader of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data import LanguageBatchSampler, LanguageCollator, LanguageDatasets
from hf_meta_adapters.data.language_datasets import size_of
from hf_meta_adapters.data.overlap import check_roles
from hf_meta_adapters.data.roles import split_roles
from hf_meta_adapters.data.step_partition import StepPartition
from hf_meta_adapters.errors import ConfigurationError, DataError, check_known_language
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.losses import predicts_the_next_token
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

Datasets = Mapping[Language, Any]


def check_arguments(model: object, args: object, optimizer: object) -> None:
    """Check that model, arguments and a given optimizer can work together.

    Args:
        model: What was given as the model.
        args: What was given as the arguments.
        optimizer: The optimizer that was given, if one was.

    Raises:
        ConfigurationError: If they cannot.
    """
    if not isinstance(model, LanguageAdapterModel):
        raise ConfigurationError(
            f"`model` must be a LanguageAdapterModel. Found `{type(model).__name__}`. Write"
            " `get_language_model(model, BottleneckConfig(), languages=[...])`, or with"
            " `config=None` for a baseline."
        )
    if not isinstance(args, MetaAdapterTrainingArguments):
        raise ConfigurationError(
            f"`args` must be MetaAdapterTrainingArguments. Found `{type(args).__name__}`. It takes"
            " the same arguments."
        )
    check_output_dir(Path(str(args.output_dir)))
    if optimizer is not None and args.adapter_learning_rate is not None:
        raise ConfigurationError(
            "`adapter_learning_rate` is the rate of groups in the optimizer that the Trainer"
            f" makes. Found it beside an optimizer of your own, `{type(optimizer).__name__}`. Give"
            " that optimizer two groups, with `.values()` of `shared_parameters()` and"
            " `language_parameters(...)`, and leave `adapter_learning_rate` out."
        )
    if args.label_smoothing_factor and predicts_the_next_token(model):
        raise ConfigurationError(
            "`label_smoothing_factor` must be 0 for a model that predicts the next token: the"
            " Trainer would smooth labels that it does not shift. Found"
            f" {args.label_smoothing_factor}. Pass a `compute_loss_func`."
        )


def check_output_dir(folder: Path) -> None:
    """Check that files can be written to a folder, which is made if it is missing.

    Args:
        folder: The folder.

    Raises:
        ConfigurationError: If they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"`output_dir` must be a folder that can be written to. Found {folder}:"
            f" {error.strerror or error}. Write the name of a new folder."
        ) from error


def by_language(name: str, datasets: Any) -> Datasets:
    """Return the datasets if they are given by language.

    Args:
        name: The argument, for the message.
        datasets: What was given for it.

    Raises:
        DataError: If it is no mapping.
    """
    if not isinstance(datasets, Mapping):
        found = "none" if datasets is None else f"a `{type(datasets).__name__}`"
        raise DataError(
            f'`{name}` must be a dict from language to data. Found {found}. Write `{name}={{"en":'
            ' ..., "sw": ...}`.'
        )
    return datasets


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
    for name, several in (
        ("train_dataset", train),
        ("meta_dataset", meta),
        ("eval_dataset", selection),
    ):
        for key in {} if several is None else by_language(name, several):
            check_known_language(key, languages)
    if not needs_meta:
        check_roles(train, None, selection)
        return train, None
    check_roles(train, meta, selection)
    if meta is not None:
        return train, meta
    parts = split_roles(train)
    return parts.train, parts.meta


def read_settings(
    languages: Sequence[Language],
    train: Datasets,
    meta: Datasets | None,
    args: MetaAdapterTrainingArguments,
) -> dict[str, Any]:
    """What decides which rows a run reads in which order, JSON: a resumed run must have the same.

    Args:
        languages: Those of the model.
        train: The training data.
        meta: The meta data, if there is any.
        args: Batch sizes, temperature, seeds.

    Returns:
        name → value.
    """
    roles = {"train": by_language("train_dataset", train)} | (
        {} if meta is None else {"meta": meta}
    )
    sizes = {
        role: {key: size_of(one) for key, one in sorted(several.items())}
        for role, several in roles.items()
    }
    per_device = {"train": args.per_device_train_batch_size}
    per_device["meta"] = args.meta_batch_size or per_device["train"]
    times = args.gradient_accumulation_steps * args.world_size
    streaming = None in sizes["train"].values()
    return {
        "languages": list(languages),
        "rows of the data": sizes,
        "rows per language and step": {role: per_device[role] * times for role in roles},
        "languages_per_step": args.languages_per_step,
        "sampling_temperature": args.sampling_temperature,
        "seed": args.seed,
        "data_seed": args.data_seed,
        # of streams it decides in which steps a language is, if not in all of them
        "max_steps": args.max_steps if streaming and args.languages_per_step else None,
    }


def train_dataloader(
    datasets: Mapping[Any, Datasets],
    collator: Callable[[list[Any]], Any],
    args: MetaAdapterTrainingArguments,
    batch_size: int,
    check: Callable[[Any, Language, Any], None] | None = None,
) -> DataLoader[Any]:
    """The loader of step batches: for each language of a step a batch of training rows, and one of meta rows.

    Args:
        datasets: role → language → data.
        collator: Makes a batch of examples.
        args: Meta batch size, temperature, seed, processes and workers.
        batch_size: Training rows per language, process and micro-step.
        check: Called with role, language and batch; raises where that cannot work.

    Returns:
        The loader, whose `batch_sampler` is a `LanguageBatchSampler`.
    """
    sizes = {
        role: {key: size_of(one) for key, one in several.items()}
        for role, several in datasets.items()
    }
    streaming = None in sizes["train"].values()
    sampler = LanguageBatchSampler(
        sizes["train"],
        sizes.get("meta"),
        batch_size=batch_size,
        meta_batch_size=args.meta_batch_size,
        languages_per_step=args.languages_per_step,
        alpha=args.sampling_temperature,
        seed=args.seed if args.data_seed is None else args.data_seed,
        steps_per_epoch=args.max_steps if streaming and args.max_steps > 0 else None,
        partition=StepPartition(
            rank=args.process_index,
            world_size=args.world_size,
            accumulation_steps=args.gradient_accumulation_steps,
        ),
    )
    return DataLoader(
        LanguageDatasets(datasets),
        batch_sampler=sampler,
        collate_fn=LanguageCollator(collator, args.seed, check),
        # its own: how often a loader draws depends on workers and resumes, and must not move the
        # dropout masks
        generator=torch.Generator().manual_seed(args.seed),
        num_workers=args.dataloader_num_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        persistent_workers=args.dataloader_persistent_workers,
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
    )
