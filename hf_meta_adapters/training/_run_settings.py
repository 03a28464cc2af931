"""What a run is: the settings that a checkpoint records, and that a resumed run must share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from transformers import Trainer

from hf_meta_adapters._typing import Language
from hf_meta_adapters._version import __version__
from hf_meta_adapters.data.fingerprint import fingerprint
from hf_meta_adapters.data.language_datasets import size_of
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.training._collator_settings import PROBE, collator_settings, probe
from hf_meta_adapters.training._dataset_roles import datasets_by_role, rows_per_step
from hf_meta_adapters.training._given_data import Datasets, by_language, without_sets
from hf_meta_adapters.training._model_settings import model_settings
from hf_meta_adapters.training._resumed_arguments import recorded_arguments
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

_RENAMED = {"sampling_temperature": "sampling_alpha"}
"""Name in checkpoints of earlier versions → name today."""

_LIBRARIES = ("torch", "transformers", "accelerate", "peft")


@dataclass(frozen=True)
class RunParts:
    """What a run is made of.

    Args:
        model: The model.
        args: The arguments.
        datasets: role → language → data: "train", and "meta" and "eval" where there is some.
        collator: The collator.
        tokenizer: The tokenizer, a processor, or nothing.
        precision: Accelerate's word for the precision of forward passes.
        loss: The name of the user's loss, if there is one.
    """

    model: LanguageAdapterModel
    args: MetaAdapterTrainingArguments
    datasets: Mapping[str, Datasets]
    collator: object
    tokenizer: object
    precision: str
    loss: str | None

    def settings(self) -> dict[str, object]:
        """All settings, JSON: those of `run_settings`, and sections of more."""
        base = run_settings(
            self.model.languages, self.datasets["train"], self.datasets.get("meta"), self.args
        )
        computation = {"mixed precision": self.precision, "compute_loss_func": self.loss}

        return {
            **base,
            "arguments": recorded_arguments(vars(self.args)),
            "data": self.fingerprints(),
            "batches": collator_settings(self.collator, self.tokenizer),
            "model": {**model_settings(self.model), **computation},
            "libraries": {
                "hf_meta_adapters": __version__,
                **{name: version(name) for name in _LIBRARIES},
            },
        }

    def fingerprints(self) -> dict[str, str | None]:
        """The fingerprints of all data, by name. They are computed anew in each call."""
        found = {}
        for role, datasets in self.datasets.items():
            # Once, where the rows of both roles are the same.
            if role == "meta" and datasets is self.datasets["train"]:
                continue
            for language, dataset in datasets.items():
                found[f"content of the {role} data of {language!r}"] = fingerprint(dataset)

        # Of equal rows, another collator makes another batch.
        train = self.datasets["train"]
        batch = probe(self.collator, train[min(train)])
        if batch is not None:
            found[PROBE] = batch
        return found


def run_parts(
    trainer: Trainer,
    model: LanguageAdapterModel,
    without_unused_columns: Callable[[Datasets], Datasets],
) -> RunParts:
    """What the run of a Trainer is made of.

    Args:
        trainer: The `MetaAdapterTrainer`.
        model: Its model, without wrappers.
        without_unused_columns: Leaves out the columns that no batch will have.

    Returns:
        The parts.

    Raises:
        DataError: If there is no training data by language.
    """
    roles = datasets_by_role(
        trainer.train_dataset, trainer.meta_dataset, without_unused_columns, trainer.args
    )
    datasets: dict[str, Datasets] = {str(role): rows for role, rows in roles.items()}

    # The best checkpoint so far is the best on these data.
    has_best = trainer.args.metric_for_best_model is not None
    if has_best and isinstance(trainer.eval_dataset, Mapping):
        datasets["eval"] = without_sets(trainer.eval_dataset)

    loss = trainer.compute_loss_func
    if loss is not None:
        loss = getattr(loss, "__name__", type(loss).__name__)

    return RunParts(
        model,
        trainer.args,
        datasets,
        trainer.data_collator,
        # As it is saved: a collator may be all that knows the tokenizer.
        trainer.processing_class or getattr(trainer.data_collator, "tokenizer", None),
        trainer.accelerator.mixed_precision,
        loss,
    )


def run_settings(
    languages: Sequence[Language],
    train: Datasets | None,
    meta: Datasets | None,
    args: MetaAdapterTrainingArguments,
) -> dict[str, object]:
    """The settings that decide which rows a run reads in which order, JSON.

    Args:
        languages: The languages of the model.
        train: The training data.
        meta: The meta data, if there is any; the object that `train` is where rows are shared.
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
    every = {str(role): rows for role, rows in rows_per_step(args).items()}
    rows = {role: every[role] for role in roles}

    # The length of an epoch of streams: it places the languages where a step does not hold all.
    max_steps = None
    if None in sizes["train"].values() and args.languages_per_step:
        max_steps = args.max_steps

    special: dict[str, object] = {}
    if meta and all(rows is roles["train"].get(key) for key, rows in meta.items()):
        special["meta rows"] = "those of training"

    # A plan shares out the whole run: of another length, it would be another plan from the start.
    plan = args.sampling_plan()
    if plan is not None:
        length = {"steps": plan.steps, "epochs": plan.epochs if plan.steps is None else None}
        special["length of the run"] = length
        for name in ("sampling", "sampling_max_epochs", "sampling_end_alpha"):
            special[name] = vars(args)[name]

    return {
        **special,
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
