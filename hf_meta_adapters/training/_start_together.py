"""Before they begin, the processes of a run make sure that they are about to do the same."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from datasets import IterableDataset
from transformers import Trainer, TrainingArguments

from hf_meta_adapters.data.language_datasets import is_map_style
from hf_meta_adapters.data.row_sample import row_sample
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.checksums import checksums
from hf_meta_adapters.training._argument_record import argument_record
from hf_meta_adapters.training._checkpoint_seal import read_record
from hf_meta_adapters.training._described import described, described_parts, digest_of
from hf_meta_adapters.training._given_data import without_sets
from hf_meta_adapters.training._model_record import model_record
from hf_meta_adapters.training._optimizer_groups import unwrapped
from hf_meta_adapters.training._same_everywhere import CALL, check_same, gathered, on_processes

T = TypeVar("T")

_LIBRARIES = ("hf-meta-adapters", "torch", "transformers", "accelerate", "peft", "adapters")


def check_same_call(
    trainer: Trainer,
    model: LanguageAdapterModel,
    call: str,
    datasets: Mapping[str, object],
    *,
    trains: bool = False,
) -> None:
    """Check that all processes make the same call, with the same model, data and arguments.

    Args:
        trainer: The Trainer.
        model: Its model.
        call: The call, and what it was called with.
        datasets: The argument → language → data, of the data that the call reads.
        trains: Whether the call trains.

    Raises:
        ConfigurationError: If something differs; with the same text on all processes.
    """
    if trainer.args.world_size == 1:
        return

    columns: Collection[str] | None = None
    if trainer.args.remove_unused_columns:
        columns = trainer._signature_columns

    record = {CALL: call, **_versions(), **argument_record(trainer.args), **_trainer(trainer)}
    for name, by_language in datasets.items():
        record.update(_data_record(name, by_language, columns))
    record.update(model_record(model))
    # Weights that were trained together are equal; comparing them would find a last bit that cards
    # of two kinds round differently.
    if trainer.state.global_step == 0 and not (trains and _sends_weights(trainer)):
        for name, checksum in checksums(model).items():
            record[f"the value of `{name}`"] = f"of checksum {checksum}"
    check_same(record)


def on_all(args: TrainingArguments, work: Callable[[], T]) -> T:
    """Do what a start needs; where one process cannot, none starts.

    Args:
        args: The arguments.
        work: What is to be done. Whatever it raises, the others are told.

    Returns:
        What `work` returned here.

    Raises:
        ConfigurationError: If another process cannot start.
    """
    # A process alone has nobody to tell.
    if args.world_size == 1:
        return work()

    own: Exception | None = None
    try:
        done = work()
    except Exception as error:
        own = error

    said = gathered("" if own is None else f"{type(own).__name__}: {own}")
    if own is not None:
        raise own

    failed = [rank for rank, error in enumerate(said) if error]
    if failed:
        raise ConfigurationError(
            f"All processes must be able to start. Found on {on_processes(failed)}:"
            f" {said[failed[0]]}"
        )
    return done


def check_same_checkpoint(trainer: Trainer, checkpoint: str | None) -> None:
    """Check that all processes start from the same checkpoint, wherever each has its copy.

    Args:
        trainer: The Trainer.
        checkpoint: The folder; `None` for a new start.

    Raises:
        ConfigurationError: If one differs.
    """
    if trainer.args.world_size > 1:
        check_same(_checkpoint_record(checkpoint))


def _checkpoint_record(checkpoint: str | None) -> dict[str, str]:
    """What a checkpoint is, wherever a machine has its copy."""
    if checkpoint is None:
        return {"the checkpoint": "none"}

    record = read_record(Path(checkpoint))
    # Without random states: those of the processes of a machine are on its own disk.
    weights = [entry for entry in record["files"].items() if entry[0].endswith(".safetensors")]
    return {"the checkpoint": f"of step {record['step']} (weights {digest_of(str(weights))})"}


def _sends_weights(trainer: Trainer) -> bool:
    """Whether the weights of the first process replace those of the others as training begins."""
    if trainer.is_fsdp_enabled:
        return bool(trainer.accelerator.state.fsdp_plugin.cpu_ram_efficient_loading)
    return True  # DDP


def _versions() -> dict[str, str]:
    """The libraries that decide what a step computes; builds for other cards are the same."""
    found = {"the version of Python": ".".join(platform.python_version_tuple()[:2])}
    for library in _LIBRARIES:
        try:
            found[f"the version of {library}"] = version(library).partition("+")[0]
        except PackageNotFoundError:
            found[f"the version of {library}"] = "not installed"
    return found


def _trainer(trainer: Trainer) -> dict[str, str]:
    """What was passed to the Trainer besides model, arguments and data."""
    accelerator = trainer.accelerator
    record = {
        "the number of processes": str(trainer.args.world_size),
        "the mixed precision (`ACCELERATE_MIXED_PRECISION`)": str(accelerator.mixed_precision),
        "the kind of launch": str(accelerator.distributed_type),
        "`label_names` of the Trainer": str(trainer.label_names),
        "`compute_loss_func`": described(trainer.compute_loss_func),
        "`compute_metrics`": described(trainer.compute_metrics is not None),
        **described_parts("data_collator", trainer.data_collator),
    }

    if trainer.optimizer is not None:
        optimizer = unwrapped(trainer.optimizer)
        record["the optimizer"] = described(type(optimizer))
        for number, group in enumerate(optimizer.param_groups):
            settings = {**group, "params": len(group["params"])}
            for name, value in settings.items():
                record[f"`{name}` of parameter group {number}"] = described(value)
    if trainer.lr_scheduler is not None:
        record["the schedule"] = described(type(trainer.lr_scheduler))
    return record


def _data_record(name: str, datasets: object, columns: Collection[str] | None) -> dict[str, str]:
    if isinstance(datasets, str):
        return {f"`{name}`": repr(datasets)}
    datasets = without_sets(datasets)
    if not isinstance(datasets, Mapping):
        return {f"`{name}`": "None" if datasets is None else type(datasets).__name__}

    record = {f"the order of the languages in `{name}`": str(list(datasets))}
    for language, dataset in datasets.items():
        description = f"a stream of type {type(dataset).__name__}"
        if isinstance(dataset, IterableDataset):
            description += f" with the columns {dataset.column_names}"
        if is_map_style(dataset):
            sample = row_sample(dataset, columns)
            description = f"{len(dataset)} rows"
            if sample is not None:
                description += f" (digest of a sample {sample})"
        record[f"`{name}[{language!r}]`"] = description

    return record
