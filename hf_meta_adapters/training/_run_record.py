"""What is known of a run, for the manifest and the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import TypedDict

from hf_meta_adapters._typing import Language
from hf_meta_adapters.hub.base_model import is_repo_id
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.training._dataset_roles import MetaData
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments


class RunRecord(TypedDict, total=False):
    """The entries of the manifest's details.

    Attributes:
        training: The arguments of the method.
        data: language → role → rows.
        scores: Results, as JSON or as objects of this package.
        train_runtime: Seconds.
        base_model: The name of the model that training started from.
    """

    training: dict[str, object]
    data: dict[Language, dict[str, int]]
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
    record: RunRecord = {"training": args.method(), "data": _row_counts(datasets)}
    if datasets["meta"] == "train":
        record["training"]["meta_dataset"] = "train"

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


def _row_counts(datasets: Mapping[str, MetaData | None]) -> dict[Language, dict[str, int]]:
    """Language → role → rows, where they can be counted."""
    counts: dict[Language, dict[str, int]] = {}
    for role, given in datasets.items():
        by_language = datasets["train"] if given == "train" else given
        if not isinstance(by_language, Mapping):
            continue
        for language, dataset in by_language.items():
            if isinstance(dataset, Sized):
                counts.setdefault(language, {})[role] = len(dataset)
    return counts
