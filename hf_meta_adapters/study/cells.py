"""Which cells a study has, and what determines each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from hf_meta_adapters._typing import Language
from hf_meta_adapters.study._study_arguments import StudyArguments
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.methods import METHODS, examples_seen
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

__all__ = ["count_lines", "study_cells", "trial_cells"]

_MODEL = ("model_type", "sizes", "mlm_probability", "bottleneck_size")
_DATA = ("vocabulary", "max_length", "text_limit", "test_limit", "labelled_limit")
_TASKS = ("train", "zero_shot_train", "finetuning", "pivot")
_ALPHA = 0.5  # before it is tuned

Cells = dict[str, dict[str, Any]]


def study_cells(args: StudyArguments, tuned: Mapping[str, Mapping[str, Any]]) -> Cells:
    """Return the cells of a study: every method with every seed, for all languages, each alone, and pairs.

    Args:
        args: The settings of the study.
        tuned: Method → the training arguments that were best, if they were tuned.

    Returns:
        Name → settings for `compute_cell`, whole seeds first.
    """
    plan: list[tuple[str, list[Language], list[str]]] = []
    plan += [(method, args.languages, args.tasks) for method in args.methods if method != "mono"]
    plan += [("mono", [key], args.tasks) for key in args.languages if "mono" in args.methods]
    others = [key for key in args.languages if key != args.pivot]
    plan += [
        (method, [args.pivot, key], args.pair_tasks)
        for method in args.pair_methods
        for key in others
    ]
    return {
        f"{method}-{'+'.join(keys)}-{seed}": _cell(args, method, keys, seed, tuned, tasks=tasks)
        for seed in args.seeds
        for method, keys, tasks in plan
    }


def trial_cells(
    args: StudyArguments,
    method: str,
    number: int,
    trial: Mapping[str, Any],
    best: Mapping[str, Mapping[str, Any]],
) -> Cells:
    """Return the cells of one trial of a method, scored on selection text.

    Args:
        args: The settings of the study.
        method: The method.
        number: The number of the trial.
        trial: The training arguments to try.
        best: Method → the best training arguments so far.

    Returns:
        Name → settings for `compute_cell`: one cell a seed, or one for each language of the
        monolingual method.
    """
    several = [[key] for key in args.languages] if method == "mono" else [args.languages]
    tuned = {**best, method: trial}
    return {
        f"{method}-{number}-{'+'.join(keys)}-{seed}": _cell(
            args, method, keys, seed, tuned, trial=True
        )
        for seed in args.trial_seeds
        for keys in several
    }


def count_lines(args: StudyArguments) -> dict[Language, int]:
    """Return how many training lines of each language a study has.

    Args:
        args: The settings of the study.

    Returns:
        Language → lines.
    """
    return _count(args.data, tuple(args.languages), args.text_limit)


@cache
def _count(data: str, languages: tuple[Language, ...], limit: int) -> dict[Language, int]:
    return {key: len(lines) for key, lines in read_texts(data, "train", languages, limit).items()}


def _cell(
    args: StudyArguments,
    method: str,
    languages: Sequence[Language],
    seed: int,
    tuned: Mapping[str, Mapping[str, Any]],
    *,
    tasks: Sequence[str] = (),
    trial: bool = False,
) -> dict[str, Any]:
    """Return what determines a cell, which sees as many rows of its languages as a model of all languages does."""
    alpha = _alpha(tuned.get("joint", {}), _alpha(args.training, _ALPHA))
    own = tuned.get(method, tuned.get(METHODS[method].like, {}))
    training = {**args.training, "sampling_alpha": alpha, **own}
    steps = args.tune_steps if trial else args.steps
    if len(languages) < len(args.languages):
        options = MetaAdapterTrainingArguments(
            args.output_dir, seed=seed, report_to="none", **training
        )
        seen = examples_seen(count_lines(args), steps, options)
        steps = round(
            sum(seen[key] for key in languages)
            / (len(languages) * options.per_device_train_batch_size)
        )
        training["languages_per_step"] = None
    recorded = {name: getattr(args, name) for name in (*_MODEL, *_DATA, *_TASKS)}
    what = {
        "method": method,
        "languages": list(languages),
        "seed": seed,
        "steps": steps,
        "training": training,
    }
    return {**recorded, **what, "split": "valid" if trial else "test", "tasks": list(tasks)}


def _alpha(settings: Mapping[str, Any], default: float) -> float:
    """The α of the sampling in settings, which may have its deprecated name."""
    return settings.get("sampling_alpha", settings.get("sampling_temperature", default))
