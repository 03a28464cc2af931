"""Evaluation while a recipe trains: what it needs, and when it stops the run."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.pretraining._text_arguments import TextArguments
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

__all__ = ["evaluation_callbacks"]

_EXAMPLE = (
    "`--eval_split valid --eval_strategy steps --eval_steps 500 --save_steps 500"
    " --load_best_model_at_end true`"
)


def evaluation_callbacks(
    args: TextArguments,
    training: MetaAdapterTrainingArguments,
    languages: Sequence[Language],
) -> list[TrainerCallback]:
    """Check the settings of evaluation during training, and return the callback that stops early.

    The Trainer logs `eval_<language>_loss` for each language and `eval_loss`, their mean.

    Args:
        args: `eval_split` and `early_stopping_patience`.
        training: `eval_strategy`, `metric_for_best_model`, …
        languages: The languages.

    Returns:
        `[EarlyStoppingCallback]` with `early_stopping_patience`, or else nothing.

    Raises:
        ConfigurationError: If evaluation is asked for and cannot take place, or the metric that
            chooses the best model does not exist.

    Example:
        >>> args = TextArguments(model="name", eval_split="valid", early_stopping_patience=3)
        >>> training = MetaAdapterTrainingArguments(
        ...     eval_strategy="steps", metric_for_best_model="loss", report_to="none"
        ... )
        >>> evaluation_callbacks(args, training, ["en", "sw"])[0].early_stopping_patience
        3
    """
    evaluates = training.eval_strategy != IntervalStrategy.NO
    if evaluates and not args.eval_split:
        raise ConfigurationError(
            "Evaluation during training needs held-out text. Found"
            f" `eval_strategy={str(training.eval_strategy.value)!r}` and no `eval_split`. Name the"
            " split, for example `--eval_split valid`, or leave `eval_strategy` out."
        )

    _check_metric(training.metric_for_best_model, languages)

    patience = args.early_stopping_patience
    if patience is None:
        return []

    if patience < 1 or not evaluates or training.metric_for_best_model is None:
        raise ConfigurationError(
            "`early_stopping_patience` is a number of evaluations, at least 1, during which the"
            f" metric of the best model has not improved. Found {patience} with"
            f" `eval_strategy={str(training.eval_strategy.value)!r}` and"
            f" `metric_for_best_model={training.metric_for_best_model!r}`. Add for example"
            f" {_EXAMPLE}."
        )

    return [EarlyStoppingCallback(early_stopping_patience=patience)]


def _check_metric(metric: str | None, languages: Sequence[Language]) -> None:
    """Refuse a metric that no evaluation will log, before the first evaluation."""
    names = ["eval_loss", *(f"eval_{language}_loss" for language in languages)]
    if metric is None or f"eval_{metric.removeprefix('eval_')}" in names:
        return

    raise ConfigurationError(
        f"`metric_for_best_model` must be one of {names}. Found {metric!r}. Use for example"
        ' "loss", the mean over the languages.'
    )
