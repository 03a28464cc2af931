"""One model for many labels of a source language and few of each target: three ways to train it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_meta_adapters._typing import Keywords, Language
from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.evaluation import LanguageScores, Task
from hf_meta_adapters.finetuning._experiment import (
    Datasets,
    Drawn,
    Experiment,
    MakeModel,
    target_languages,
)
from hf_meta_adapters.finetuning._finetuning_settings import FinetuningSettings
from hf_meta_adapters.finetuning.shots import draw_shots, halves
from hf_meta_adapters.modeling.model import LanguageAdapterModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TARGET_ROLES", "joint_few_shot", "meta_few_shot", "projected_few_shot"]

TARGET_ROLES = ("meta", "split", "both", "train")
"""What the few labels are for: the meta-gradient, a half for it, either in turn, or training."""


def joint_few_shot(
    make_model: MakeModel,
    task: Task,
    train: Datasets,
    test: Datasets,
    tokenizer: PreTrainedTokenizerBase,
    settings: FinetuningSettings | None = None,
    *,
    source_language: Language = "en",
    shots: int = 100,
    eval_datasets: Datasets | None = None,
    save_directory: str | Path | None = None,
    **training: object,
) -> LanguageScores:
    """Compute the scores of one model, trained on the source and on few labels of each target.

    Every step has a batch of every language. θ is updated by the mean of the languages' training
    gradients, φ_l by that of l. Each language is scored with its φ_l.

    Args:
        make_model: Makes the pretrained model with a new head.
        task: The task.
        train: Language → labelled training examples: all of the source are used, and `shots` of
            every other language, drawn from the seed.
        test: Language → test examples. A language without training examples is scored zero-shot,
            and named in `without_labels`.
        tokenizer: The tokenizer.
        settings: How to fine-tune. An epoch is a pass over the labels of the source.
        source_language: The language of the many labels.
        shots: k, how many examples of each other language are used.
        eval_datasets: Language → selection examples: the model with the best mean score on those of
            the source and the targets is kept.
        save_directory: Where to save the model; by default it is not kept.
        **training: Arguments of `MetaAdapterTrainingArguments`; they win over those of the
            settings.

    Returns:
        The scores. `details["drawn"]` has the numbers of the rows that were drawn.

    Raises:
        ConfigurationError: If settings cannot work.
        DataError: If a language has fewer than k examples, or only the source has any.
        LanguageError: If the source has no labels, or a language no adapter.
    """
    settings = (settings or FinetuningSettings()).with_training(**training)
    data = (task, train, test, tokenizer, settings, eval_datasets, save_directory)
    experiment = Experiment("joint-few-shot", make_model, *data)

    targets, without = target_languages(train, test, source_language)
    drawn = draw_shots(train, targets, shots, seed=experiment.seed)

    model = experiment.model(source_language, *targets)
    experiment.fit(
        model, "joint", {source_language: train[source_language], **experiment.rows(drawn)}
    )
    return _scored(experiment, model, {"train": drawn}, without)


def meta_few_shot(
    make_model: MakeModel,
    task: Task,
    train: Datasets,
    test: Datasets,
    tokenizer: PreTrainedTokenizerBase,
    settings: FinetuningSettings | None = None,
    *,
    source_language: Language = "en",
    shots: int = 100,
    target_role: str | None = None,
    eval_datasets: Datasets | None = None,
    save_directory: str | Path | None = None,
    **training: object,
) -> LanguageScores:
    """Compute the scores of one model whose φ are meta-learned on few labels of each target.

    θ is updated by the training gradient of the source, and the φ by the meta-gradient: φ_source by
    what the step of θ does for the losses of the targets, φ_target by the gradient of its own loss
    after that step. Each language is scored with its φ_l.

    Args:
        make_model: As for `joint_few_shot`.
        task: The task.
        train: As for `joint_few_shot`.
        test: As for `joint_few_shot`.
        tokenizer: The tokenizer.
        settings: How to fine-tune. An epoch is a pass over the labels of the source.
        source_language: The language of the many labels.
        shots: k, how many examples of each other language are used.
        target_role: `"meta"`: the few labels are for the meta-gradient only, the default.
            `"split"`: one half is, and the other one is trained on, so that θ and the head learn
            from the targets as well. `"both"`: in each step, some are trained on and others are for
            the meta-gradient, so that each has either role sooner or later; of a text that is
            several rows, each row. `"train"`: all are trained on, and the next step's batch is what
            the φ are judged by; it goes with `lookahead="next"`, whose default it is.
        eval_datasets: As for `joint_few_shot`.
        save_directory: As for `joint_few_shot`.
        **training: As for `joint_few_shot`: `meta_gradient`, `lookahead`, `indirect_ratio`,
            `adapter_learning_rate`, … `meta_languages` may weigh the targets; by default they count
            alike. `adapter_update="meta+train"` adds the training gradient to that of φ.

    Returns:
        The scores. `details["drawn"]` has the numbers of the rows that were drawn, by role.

    Raises:
        ConfigurationError: If settings cannot work, or no φ is trained.
        DataError: If a language has fewer than k examples, or only the source has any.
        LanguageError: If the source has no labels, or a language no adapter.
    """
    settings = (settings or FinetuningSettings()).with_training(**training)
    data = (task, train, test, tokenizer, settings, eval_datasets, save_directory)
    return _meta(
        Experiment("meta-few-shot", make_model, *data), source_language, shots, target_role
    )


def projected_few_shot(
    make_model: MakeModel,
    task: Task,
    train: Datasets,
    test: Datasets,
    tokenizer: PreTrainedTokenizerBase,
    settings: FinetuningSettings | None = None,
    *,
    source_language: Language = "en",
    shots: int = 100,
    target_role: str | None = None,
    eval_datasets: Datasets | None = None,
    save_directory: str | Path | None = None,
    **training: object,
) -> LanguageScores:
    """Compute the scores of one model whose steps do not oppose the losses on few target labels.

    As `meta_few_shot`, with `shared_update="project"`: from the training gradient of θ, the part is
    removed that opposes v, the gradient of the targets' losses: g ← g − min(⟨g, v⟩, 0) / ‖v‖² · v.

    Args:
        make_model: As for `joint_few_shot`.
        task: The task.
        train: As for `joint_few_shot`.
        test: As for `joint_few_shot`.
        tokenizer: The tokenizer.
        settings: How to fine-tune. An epoch is a pass over the labels of the source.
        source_language: The language of the many labels.
        shots: k, how many examples of each other language are used.
        target_role: `"meta"`, `"split"` or `"both"`, as for `meta_few_shot`.
        eval_datasets: As for `joint_few_shot`.
        save_directory: As for `joint_few_shot`.
        **training: As for `meta_few_shot`; `shared_update_groups="layer"` projects each layer.

    Returns:
        As for `meta_few_shot`.

    Raises:
        ConfigurationError: If settings cannot work, or no φ is trained.
        DataError: If a language has fewer than k examples, or only the source has any.
        LanguageError: If the source has no labels, or a language no adapter.
    """
    training = {"shared_update": "project", **training}
    settings = (settings or FinetuningSettings()).with_training(**training)
    if settings.training["shared_update"] != "project":
        raise ConfigurationError(
            '`projected_few_shot` needs `shared_update="project"`. Found'
            f" {settings.training['shared_update']!r}. Use `meta_few_shot`."
        )

    data = (task, train, test, tokenizer, settings, eval_datasets, save_directory)
    experiment = Experiment("projected-few-shot", make_model, *data)
    return _meta(experiment, source_language, shots, target_role)


def _meta(
    experiment: Experiment, source: Language, shots: int, target_role: str | None
) -> LanguageScores:
    """Train a model with the meta-gradient of the targets, and score it."""
    targets, without = target_languages(experiment.train, experiment.test, source)
    role = _checked_role(experiment.settings.training, target_role)
    drawn = draw_shots(experiment.train, targets, shots, seed=experiment.seed)
    roles = _roles(experiment, drawn, role)
    _decide(experiment, targets, roles["meta"], in_turn=role == "both")

    model = experiment.model(source, *targets)
    _check_adapters(model, (source, *targets))

    few, meta = experiment.rows(roles["train"]), experiment.rows(roles["meta"])
    labelled = {source: experiment.train[source], **few}
    experiment.fit(model, "meta", labelled, "train" if role == "both" else meta or None)
    return _scored(experiment, model, roles, without)


def _checked_role(training: Keywords, role: str | None) -> str:
    """Return what the few labels are for."""
    follows = training.get("lookahead") == "next"
    if role is None:
        role = "train" if follows else "meta"

    if role not in TARGET_ROLES:
        raise ConfigurationError(
            f"`target_role` must be one of {list(TARGET_ROLES)}. Found {role!r}."
        )
    if (role == "train") != follows:
        raise ConfigurationError(
            '`target_role="train"` goes with `lookahead="next"`, where the batch of the next step'
            f" is what a step is judged by, and with no other. Found {role!r} with"
            f" `lookahead={training.get('lookahead')!r}`. Leave `target_role` out."
        )
    if training.get("adapter_update") == "train":
        raise ConfigurationError(
            'The meta-gradient updates φ where `adapter_update` is "meta" or "meta+train". Found'
            ' "train". Leave it out, or use `joint_few_shot`, which trains φ with its own labels.'
        )
    return role


def _roles(experiment: Experiment, drawn: Drawn, role: str) -> dict[str, Drawn]:
    """Return which rows are trained on, and which ones are for the meta-gradient."""
    if role == "both":
        return {"train": drawn, "meta": drawn}
    if role != "split":
        roles: dict[str, Drawn] = {"train": {}, "meta": {}}
        return {**roles, role: drawn}

    train: dict[Language, list[int]] = {}
    meta: dict[Language, list[int]] = {}
    for language, numbers in drawn.items():
        train[language], meta[language] = halves(
            experiment.train[language],
            numbers,
            experiment.task,
            experiment.tokenizer,
            language=language,
        )
    return {"train": train, "meta": meta}


def _decide(
    experiment: Experiment, targets: Sequence[Language], meta: Drawn, *, in_turn: bool
) -> None:
    """Add the options of the Trainer that the protocol decides to those that were given."""
    given = experiment.settings.given()
    decided: dict[str, Any] = {"adapter_update": given.get("adapter_update") or "meta"}

    if meta:
        named = given.get("meta_languages") or list(targets)
        _check_meta_languages(named, targets)
        decided["meta_languages"] = named

        # A batch that is larger than the data would hold rows several times; and rows that have
        # either role in turn leave those for it that a step trains on.
        fewest = min(len(numbers) for numbers in meta.values())
        if in_turn:
            fewest -= _trained_in_a_step(given, fewest)
        if given.get("meta_batch_size") is None:
            decided["meta_batch_size"] = min(given["per_device_train_batch_size"], fewest)

    experiment.settings = experiment.settings.with_training(**decided)


def _trained_in_a_step(given: Keywords, shots: int) -> int:
    """Return how many labels of each target a step trains on, if it leaves some."""
    rows: int = given["per_device_train_batch_size"]
    if rows >= shots:
        raise ConfigurationError(
            '`target_role="both"` needs more labels of each target than a step trains on. Found'
            f" {shots} and `per_device_train_batch_size={rows}`. Use for example"
            f" `per_device_train_batch_size={max(1, shots // 2)}`."
        )
    return rows


def _check_meta_languages(named: object, targets: Sequence[Language]) -> None:
    """Check that the languages of the meta-gradient are all of the target languages."""
    known: set[object] = set()
    if isinstance(named, (Mapping, list, tuple)):
        known = set(named)

    if known != set(targets):
        raise DataError(
            "`meta_languages` must name the target languages, the languages with few labels:"
            f" {list(targets)}, as a list or with their weights. Found {named!r}. Leave it out for"
            " equal weights, and languages that should not count out of `train`."
        )


def _check_adapters(model: LanguageAdapterModel, languages: Sequence[Language]) -> None:
    """Check that every language has a φ of its own that is trained."""
    without = [key for key in languages if not model.language_parameters(key)]
    if without:
        raise ConfigurationError(
            "The meta-gradient is that of φ, of which every language must have one that is trained."
            f' Found none of {without}. Load the model with `train="all"` or'
            ' `train="adapters"`, and with an adapter for each language; or use `joint_few_shot`.'
        )


def _scored(
    experiment: Experiment,
    model: LanguageAdapterModel,
    drawn: Mapping[str, Drawn],
    without: Sequence[Language],
) -> LanguageScores:
    scores = experiment.recorded(experiment.score(model), drawn=drawn, without_labels=without)
    experiment.save(model, scores)
    return scores
