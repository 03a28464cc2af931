"""The cells of a study: which there are, and what determines each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from hf_meta_adapters._typing import Keywords, Language
from hf_meta_adapters.study._cell_settings import CellSettings
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.methods import METHODS, examples_seen
from hf_meta_adapters.study.study_arguments import StudyArguments
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

__all__ = ["count_lines", "study_cells", "trial_cells"]

TEST_SPLIT, SELECTION_SPLIT = "test", "valid"

DEFAULT_ALPHA = 0.5
"""The exponent α of language sampling, before it is tuned."""

Cells: TypeAlias = dict[str, CellSettings]
"""Name → settings for `compute_cell`."""

TunedSettings: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Method → arguments of `MetaAdapterTrainingArguments`."""


class _Arm(NamedTuple):
    """A method on some languages, fine-tuned on some tasks."""

    method: str
    languages: list[Language]
    tasks: list[str]


def study_cells(args: StudyArguments, tuned: TunedSettings) -> Cells:
    """Return the cells of a study: every method with every seed, for all languages and for pairs.

    The monolingual method has one cell for each language.

    Args:
        args: The settings of the study.
        tuned: Method → the best training arguments, where they were tuned.

    Returns:
        Name → settings for `compute_cell`, seed after seed, so that a study that is broken off has
        whole seeds.
    """
    cells: Cells = {}
    for seed in args.seeds:
        for arm in _arms(args):
            name = f"{arm.method}-{'+'.join(arm.languages)}-{seed}"
            cells[name] = _cell(args, arm, seed, tuned=tuned, steps=args.steps, split=TEST_SPLIT)

    return cells


def trial_cells(
    args: StudyArguments,
    method: str,
    number: int,
    trial: Keywords,
    best: TunedSettings,
) -> Cells:
    """Return the cells of one trial of a method, scored on selection text.

    Args:
        args: The settings of the study.
        method: The method.
        number: The number of the trial.
        trial: The training arguments to try.
        best: Method → the best training arguments so far.

    Returns:
        Name → settings for `compute_cell`: one cell a seed, or one for each seed and language of
        the monolingual method.
    """
    arms = [_Arm(method, args.languages, [])]
    if method == "mono":
        arms = [_Arm(method, [language], []) for language in args.languages]

    tuned = {**best, method: trial}
    cells: Cells = {}
    for seed in args.trial_seeds:
        for arm in arms:
            name = f"{method}-{number}-{'+'.join(arm.languages)}-{seed}"
            cells[name] = _cell(
                args, arm, seed, tuned=tuned, steps=args.tune_steps, split=SELECTION_SPLIT
            )

    return cells


def count_lines(args: StudyArguments) -> dict[Language, int]:
    """Return how many training lines of each language a study has.

    Args:
        args: The settings of the study.

    Returns:
        Language → lines.
    """
    return _count(args.data, tuple(args.languages), args.text_limit)


@cache  # Every cell of fewer languages asks, and the files are large.
def _count(data: str, languages: tuple[Language, ...], limit: int) -> dict[Language, int]:
    texts = read_texts(data, "train", languages, limit)
    return {language: len(lines) for language, lines in texts.items()}


def _arms(args: StudyArguments) -> Iterator[_Arm]:
    for method in args.methods:
        if method != "mono":
            yield _Arm(method, args.languages, args.tasks)

    if "mono" in args.methods:
        for language in args.languages:
            yield _Arm("mono", [language], args.tasks)

    for method in args.pair_methods:
        for language in args.languages:
            if language != args.pivot:
                yield _Arm(method, [args.pivot, language], args.pair_tasks)


def _cell(
    args: StudyArguments, arm: _Arm, seed: int, *, tuned: TunedSettings, steps: int, split: str
) -> CellSettings:
    training = _training(args, arm.method, tuned)

    # A model of fewer languages has all of them in every step, so that it needs fewer steps.
    if len(arm.languages) < len(args.languages):
        steps = _steps_of_fewer_languages(args, arm.languages, seed, training, steps)
        training["languages_per_step"] = None

    return {
        "model_type": args.model_type,
        "sizes": args.sizes,
        "mlm_probability": args.mlm_probability,
        "bottleneck_size": args.bottleneck_size,
        "vocabulary": args.vocabulary,
        "max_length": args.max_length,
        "text_limit": args.text_limit,
        "test_limit": args.test_limit,
        "labelled_limit": args.labelled_limit,
        "train": args.train,
        "zero_shot_train": args.zero_shot_train,
        "finetuning": args.finetuning,
        "pivot": args.pivot,
        "method": arm.method,
        "languages": list(arm.languages),
        "seed": seed,
        "steps": steps,
        "training": training,
        "split": split,
        "tasks": list(arm.tasks),
    }


def _training(args: StudyArguments, method: str, tuned: TunedSettings) -> dict[str, Any]:
    """Return the training arguments of a method: its tuned ones over those of all methods."""
    common = _with_present_names(args.training)
    joint = _with_present_names(tuned.get("joint", {}))
    own = _with_present_names(tuned.get(method, tuned.get(METHODS[method].like, {})))

    # The sampling that was tuned for joint training is that of every method: otherwise methods
    # would differ in how much they see of each language.
    alpha = joint.get("sampling_alpha", common.get("sampling_alpha", DEFAULT_ALPHA))

    return {**common, "sampling_alpha": alpha, **own}


def _with_present_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings, of a file that may be older than the name `sampling_alpha`."""
    renamed = {"sampling_temperature": "sampling_alpha"}
    return {renamed.get(name, name): value for name, value in settings.items()}


def _steps_of_fewer_languages(
    args: StudyArguments,
    languages: Sequence[Language],
    seed: int,
    training: Mapping[str, Any],
    steps: int,
) -> int:
    """Return the steps in which a model of some languages sees as many rows of them.

    As many, that is, as a model of all languages sees in `steps` steps: Σ_l c_l B / (|l| B), where
    c_l counts the batches of language l there and every step here has a batch of every language.
    """
    arguments = MetaAdapterTrainingArguments(
        args.output_dir, seed=seed, report_to="none", **training
    )
    seen = examples_seen(count_lines(args), steps, arguments)

    rows = sum(seen[language] for language in languages)
    return round(rows / (len(languages) * arguments.per_device_train_batch_size))
