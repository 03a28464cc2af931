"""The protocols of cross-lingual evaluation: within a language, zero-shot and few-shot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import check_known_language
from hf_meta_adapters.evaluation import LanguageScores, Task
from hf_meta_adapters.evaluation.sanity import warn_if_adapters_agree
from hf_meta_adapters.finetuning._experiment import (
    Datasets,
    Experiment,
    MakeModel,
    joined,
    target_languages,
)
from hf_meta_adapters.finetuning._finetuning_settings import FinetuningSettings
from hf_meta_adapters.finetuning.few_labels import (
    joint_few_shot,
    meta_few_shot,
    projected_few_shot,
)
from hf_meta_adapters.finetuning.shots import draw_shots

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PROTOCOLS", "few_shot", "within_language", "zero_shot"]

COMPARED_EXAMPLES = 4
"""How many examples the adapters of two languages are compared on."""


def within_language(
    make_model: MakeModel,
    task: Task,
    train: Datasets,
    test: Datasets,
    tokenizer: PreTrainedTokenizerBase,
    settings: FinetuningSettings | None = None,
    *,
    eval_datasets: Datasets | None = None,
    save_directory: str | Path | None = None,
    **training: object,
) -> LanguageScores:
    """Compute the scores in each language l of a model trained on labels in l, both with φ_l.

    Args:
        make_model: Makes the pretrained model with a new head, the same each time.
        task: The task.
        train: Language → labelled training examples.
        test: Language → test examples.
        tokenizer: The tokenizer.
        settings: How to fine-tune.
        eval_datasets: Language → selection examples: the model that is best on those of the
            languages that it is trained on is kept.
        save_directory: Where to save the model of each language, in `<save_directory>/<language>`;
            by default it is not kept.
        **training: Arguments of `MetaAdapterTrainingArguments`; they win over those of the
            settings.

    Returns:
        The scores, each language from a model of its own. `details` records how it was trained.

    Raises:
        ConfigurationError: If settings cannot work.
        LanguageError: If a language has no labels, or no adapter.
    """
    settings = (settings or FinetuningSettings()).with_training(**training)
    data = (task, train, test, tokenizer, settings, eval_datasets, save_directory)
    experiment = Experiment("within-language", make_model, *data)
    for language in test:
        check_known_language(language, train, what="`train`")

    scores = []
    for language in test:
        model = experiment.model(language)
        experiment.fit(model, language, {language: train[language]})

        scores.append(experiment.score(model, [language]))
        experiment.save(model, experiment.recorded(scores[-1]), language)

    return experiment.recorded(joined(scores))


def zero_shot(
    make_model: MakeModel,
    task: Task,
    train: Datasets,
    test: Datasets,
    tokenizer: PreTrainedTokenizerBase,
    settings: FinetuningSettings | None = None,
    *,
    source_language: Language = "en",
    eval_datasets: Datasets | None = None,
    save_directory: str | Path | None = None,
    **training: object,
) -> LanguageScores:
    """Compute the scores in each language l, with φ_l, of one model trained on a source language.

    It is trained on the labels of the source language, with φ_source.

    Args:
        make_model: As for `within_language`.
        task: The task.
        train: Language → labelled training examples; only those of the source are used.
        test: Language → test examples.
        tokenizer: The tokenizer.
        settings: How to fine-tune.
        source_language: The language of the labels.
        eval_datasets: As for `within_language`; only those of the source are used.
        save_directory: Where to save the model.
        **training: As for `within_language`.

    Returns:
        The scores; `zero_shot_mean` leaves the source out.

    Raises:
        ConfigurationError: If settings cannot work.
        LanguageError: If the source has no labels, or a language no adapter.
    """
    settings = (settings or FinetuningSettings()).with_training(**training)
    data = (task, train, test, tokenizer, settings, eval_datasets, save_directory)
    experiment = Experiment("zero-shot", make_model, *data)
    check_known_language(source_language, train, what="the training data")

    model = experiment.model(source_language)
    experiment.fit(model, source_language, {source_language: train[source_language]})

    # One adapter for all languages, or none at all, gives the same output by construction.
    if not model.share_adapter and model.backend.name != "none":
        examples = list(train[source_language])[:COMPARED_EXAMPLES]
        rows = task.features(examples, tokenizer, language=source_language)
        warn_if_adapters_agree(model, rows, source_language, list(test))

    scores = experiment.recorded(experiment.score(model, source_language=source_language))
    experiment.save(model, scores)
    return scores


def few_shot(
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
    """Compute the scores in each language l of the zero-shot model, trained further on a bit of l.

    In two stages: θ and φ_source on the labels of the source; then, from there and for each l
    alone, θ and φ_l on k labels of l, with as many steps as the settings say for either stage.

    Args:
        make_model: As for `within_language`.
        task: The task.
        train: Language → labelled training examples: all of the source are used, and `shots` of
            every other language, drawn from the seed.
        test: Language → test examples. A language without training examples is scored zero-shot,
            and named in `without_labels`.
        tokenizer: The tokenizer.
        settings: How to fine-tune, both times.
        source_language: The language of the many labels.
        shots: k, how many examples of each other language are used.
        eval_datasets: As for `within_language`.
        save_directory: As for `within_language`.
        **training: As for `within_language`.

    Returns:
        The scores. `details["drawn"]` has the numbers of the rows that were drawn.

    Raises:
        ConfigurationError: If settings cannot work.
        DataError: If a language has fewer than k examples.
        LanguageError: If the source has no labels, or a language no adapter.
    """
    settings = (settings or FinetuningSettings()).with_training(**training)
    data = (task, train, test, tokenizer, settings, eval_datasets, save_directory)
    experiment = Experiment("few-shot", make_model, *data)

    targets, without = target_languages(train, test, source_language)
    targets = [language for language in targets if language in test]
    drawn = draw_shots(train, targets, shots, seed=experiment.seed)

    model = experiment.model(source_language, *targets)
    experiment.fit(model, source_language, {source_language: train[source_language]})
    zero_shot_state = {name: value.clone() for name, value in model.state_dict().items()}

    scores = []
    for language in test:
        # Every language starts from the zero-shot model, not from the language before it.
        model.load_state_dict(zero_shot_state)
        if language in targets:
            few = experiment.rows({language: drawn[language]})
            # Whether the model has learned the task was seen in the first stage.
            experiment.fit(model, language, few, check=False)

        scores.append(experiment.score(model, [language]))
        experiment.save(model, experiment.recorded(scores[-1]), language)

    return experiment.recorded(joined(scores), drawn={"train": drawn}, without_labels=without)


PROTOCOLS: dict[str, Callable[..., LanguageScores]] = {
    "within-language": within_language,
    "zero-shot": zero_shot,
    "few-shot": few_shot,
    "joint-few-shot": joint_few_shot,
    "meta-few-shot": meta_few_shot,
    "projected-few-shot": projected_few_shot,
}
"""The name of a protocol on the command line → its function."""
