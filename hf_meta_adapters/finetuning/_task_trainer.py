"""A Trainer that scores the selection data as the task is scored."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.evaluation import ConstantPredictionWarning, Task, evaluate_languages
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments
from hf_meta_adapters.training.trainer import MetaAdapterTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TaskTrainer"]


class TaskTrainer(MetaAdapterTrainer):
    """A `MetaAdapterTrainer` whose `evaluate` gives the task's own metrics in place of the loss.

    Args:
        model: The model, with the head of the task.
        args: The arguments.
        task: The task.
        tokenizer: The tokenizer.
        max_length: Tokens in a row.
        selection: Language → examples to score.
        **trainer_arguments: As for `MetaAdapterTrainer`.
    """

    def __init__(
        self,
        model: LanguageAdapterModel,
        args: MetaAdapterTrainingArguments,
        *,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None,
        selection: Mapping[Language, Rows],
        **trainer_arguments: Any,
    ) -> None:
        self._task, self._tokenizer = task, tokenizer
        self._max_length, self._selection = max_length, selection
        super().__init__(model, args, **trainer_arguments)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Score every language with its φ by the metrics of the task, and average.

        Args:
            eval_dataset: Language → examples; default the selection data.
            ignore_keys: Without effect: it is about outputs of the model.
            metric_key_prefix: As in `transformers.Trainer`.

        Returns:
            `{prefix}_{language}_{metric}` for each language, and `{prefix}_{metric}`, the mean over
            languages.
        """
        # As in `transformers.Trainer`: schedule-free optimizers evaluate at other weights.
        if callable(getattr(self.optimizer, "eval", None)):
            self.optimizer.eval()

        with warnings.catch_warnings():
            # One class everywhere is usual in the first steps. The final scores warn of it.
            warnings.simplefilter("ignore", ConstantPredictionWarning)
            scores = evaluate_languages(
                self._model,
                self._task,
                eval_dataset or self._selection,
                processing_class=self._tokenizer,
                batch_size=self.args.per_device_eval_batch_size,
                max_length=self._max_length,
            )

        metrics: dict[str, float] = {}
        for language, of_language in scores.scores.items():
            for name, value in of_language.items():
                metrics[f"{metric_key_prefix}_{language}_{name}"] = float(value)
        for name, value in scores.mean.items():
            metrics[f"{metric_key_prefix}_{name}"] = value

        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics
