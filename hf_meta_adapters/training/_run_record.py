"""What is known of a run, for the manifest and the model card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Sized
from enum import Enum
from pathlib import Path
from typing import TypedDict

from hf_meta_adapters._typing import Language
from hf_meta_adapters.hub.base_model import is_repo_id
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.training._dataset_roles import MetaData
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

_SOURCE = re.compile(r"hf://datasets/([^/@]+/[^/@]+)@")
"""A file of a repository of data sets, as the library datasets records it."""


class RunRecord(TypedDict, total=False):
    """The entries of the manifest's details.

    Attributes:
        training: The arguments of the method, and what else decides what a step is.
        data: language → role → rows.
        datasets: The names of the data sets on the Hub.
        scores: Results, as JSON or as objects of this package.
        train_runtime: Seconds.
        base_model: The name of the model that training started from.
    """

    training: dict[str, object]
    data: dict[Language, dict[str, int]]
    datasets: list[str]
    scores: list[object]
    train_runtime: float
    base_model: str


def run_record(
    model: LanguageAdapterModel,
    args: MetaAdapterTrainingArguments,
    datasets: Mapping[str, MetaData | None],
    history: Sequence[Mapping[str, float]],
    scores: Sequence[object],
) -> RunRecord:
    """The record of a run: settings, data, the last scores, the time it took.

    Args:
        model: The model.
        args: The arguments.
        datasets: role → language → data; `"train"` for rows that are those of training.
        history: The log lines of the Trainer.
        scores: What else was measured.

    Returns:
        The record.
    """
    steps = max((int(line["step"]) for line in history if "step" in line), default=0)
    training = {**args.method(), **_schedule(args, steps)}
    training["adapter_learning_rate"] = args.adapter_rate(
        args.learning_rate, beside_shared=bool(model.shared_parameters())
    )
    if datasets["meta"] == "train":
        training["meta_dataset"] = "train"
    record: RunRecord = {"training": training, "data": _row_counts(datasets, args)}

    names = _names(datasets)
    if names:
        record["datasets"] = names

    every_score: list[object] = [*_selection_scores(model.languages, history), *scores]
    if every_score:
        record["scores"] = every_score

    runtimes = [line["train_runtime"] for line in history if "train_runtime" in line]
    if runtimes:
        record["train_runtime"] = runtimes[-1]

    # A path of this machine names nothing for others, whether or not it still exists.
    name = getattr(model.base_model.config, "_name_or_path", "")
    if name and is_repo_id(name) and not Path(name).exists():
        record["base_model"] = name

    return record


def _schedule(args: MetaAdapterTrainingArguments, steps: int) -> dict[str, object]:
    """The arguments of transformers that somebody needs who wants to repeat the run."""
    rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    precision = "float32"
    if args.bf16 or args.fp16:
        precision = "bf16" if args.bf16 else "fp16"

    return {
        "steps": steps,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": _text(args.lr_scheduler_type),
        "warmup_steps": args.get_warmup_steps(steps),
        "optim": _text(args.optim),
        "weight_decay": args.weight_decay,
        "rows_per_language_and_step": rows,
        "precision": precision,
        "seed": args.seed,
    }


def _text(setting: object) -> str:
    return str(setting.value) if isinstance(setting, Enum) else str(setting)


def _names(datasets: Mapping[str, MetaData | None]) -> list[str]:
    """The repositories on the Hub that data sets were downloaded from, each once."""
    found: list[str] = []
    for by_language in datasets.values():
        if not isinstance(by_language, Mapping):
            continue
        for dataset in by_language.values():
            info = getattr(dataset, "info", None)  # of the library datasets; others have none
            found += [place[1] for place in map(_SOURCE.match, _checksums(info)) if place]

    return list(dict.fromkeys(found))


def _checksums(info: object) -> list[str]:
    """The files that a data set of the library datasets was made from."""
    sources = getattr(info, "download_checksums", None)
    return [str(source) for source in sources] if isinstance(sources, Mapping) else []


def _selection_scores(
    languages: Sequence[Language], history: Sequence[Mapping[str, float]]
) -> list[dict[str, object]]:
    """The last loss of each language on the selection data, as one table of scores, if any."""
    scores = {}
    for language in languages:
        name = f"eval_{language}_loss"
        losses = [line[name] for line in history if name in line]
        if losses:
            scores[language] = {"loss": float(losses[-1])}

    if not scores:
        return []

    return [{"task": "evaluation", "metric": "loss", "dataset": "selection data", "scores": scores}]


def _row_counts(
    datasets: Mapping[str, MetaData | None], args: MetaAdapterTrainingArguments
) -> dict[Language, dict[str, int]]:
    """Language → role → rows, where they can be counted."""
    counts: dict[Language, dict[str, int]] = {}
    named = args.meta_options().named_meta_languages()
    for role, given in datasets.items():
        by_language = datasets["train"] if given == "train" else given
        if not isinstance(by_language, Mapping):
            continue
        for language, dataset in by_language.items():
            # Training rows that only train, because the meta languages are others.
            if given == "train" and named is not None and language not in named:
                continue
            if isinstance(dataset, Sized):
                counts.setdefault(language, {})[role] = len(dataset)
    return counts
