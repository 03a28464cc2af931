"""A Trainer for a model with languages: their data, their scores, and one loss for all heads."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Trainer, TrainerControl
from transformers.trainer_utils import PredictionOutput
from transformers.utils import find_labels

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.data.language_collator import StepBatch
from hf_meta_adapters.data.seeding import seeded
from hf_meta_adapters.hub.client import Access
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.counted_labels import pass_counts_on
from hf_meta_adapters.steps.losses import explained_loss
from hf_meta_adapters.training._compile import room_for_languages
from hf_meta_adapters.training._dataset_roles import Datasets, by_language
from hf_meta_adapters.training._language_means import language_means
from hf_meta_adapters.training._launch_checks import check_distribution
from hf_meta_adapters.training._lost_process import naming_lost_process
from hf_meta_adapters.training._precision_check import check_precision
from hf_meta_adapters.training._publishing import push_run
from hf_meta_adapters.training._start_together import check_same_call
from hf_meta_adapters.training._tokenized import check_tokenized
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments
from hf_meta_adapters.training.default_collator import get_data_collator


class LanguageTrainer(Trainer):
    """Evaluates and predicts language by language; the base of `MetaAdapterTrainer`.

    Args:
        model: The model.
        args: The arguments.
        train_dataset: language → training data.
        eval_dataset: language → selection data.
        **trainer_arguments: Everything else that `transformers.Trainer` takes. The default of
            `data_collator` is what `get_data_collator` chooses.
    """

    def __init__(
        self,
        model: LanguageAdapterModel,
        args: MetaAdapterTrainingArguments,
        *,
        train_dataset: Datasets | None,
        eval_dataset: Datasets | None,
        **trainer_arguments: Any,
    ) -> None:
        # Scores alone can be taken in any precision.
        if train_dataset is not None:
            check_precision(model, args)

        # The text reaches a collator of the user's only among all other columns.
        has_collator = trainer_arguments.get("data_collator") is not None
        if not has_collator or args.remove_unused_columns:
            main_input = str(model.base_model.main_input_name)
            check_tokenized("train_dataset", train_dataset, main_input)
            check_tokenized("eval_dataset", eval_dataset, main_input)

        # A processor of images or speech is no tokenizer: transformers chooses its collator.
        tokenizer = trainer_arguments.get("processing_class")
        is_tokenizer = isinstance(tokenizer, PreTrainedTokenizerBase)
        if trainer_arguments.get("data_collator") is None and is_tokenizer:
            trainer_arguments["data_collator"] = get_data_collator(model, tokenizer)

        # DataParallel would scatter a step batch: several devices need a launcher.
        args._n_gpu = min(args.n_gpu, 1)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **trainer_arguments,
        )
        check_distribution(args, model, self.accelerator)
        self._read_signature(model)

    def _read_signature(self, model: LanguageAdapterModel) -> None:
        """Find out which columns the model takes, and which of them are labels.

        transformers reads both from the signature of the model. That of the wrapper is `**inputs`;
        what counts is the base model's.
        """
        base = model.base_model

        self.label_names = self.args.label_names or find_labels(type(base)) or ["labels"]
        accepted = list(inspect.signature(base.forward).parameters)
        self._signature_columns = [*accepted, "label", "label_ids", *self.label_names]
        self.model_accepts_loss_kwargs = False

    def _prepare_inputs(self, inputs: Any) -> Any:
        prepared = super()._prepare_inputs(inputs)

        # Of the batches of a step: while they are on the host, nothing has to wait for a device.
        if isinstance(inputs.get("train"), Mapping):
            pass_counts_on(inputs, prepared)
        return prepared

    @property
    def _model(self) -> LanguageAdapterModel:
        """The model without wrappers for data parallelism."""
        model: LanguageAdapterModel = self.accelerator.unwrap_model(self.model)
        return model

    def evaluate(
        self,
        eval_dataset: Datasets | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Score every language with its φ, and average.

        Args:
            eval_dataset: language → data; default that of the Trainer.
            ignore_keys: As in `transformers.Trainer`.
            metric_key_prefix: As there.

        Returns:
            `{prefix}_{language}_{metric}` for each language, and `{prefix}_{metric}`, the mean over
            languages.
        """
        datasets = eval_dataset
        if datasets is None:
            datasets = self.eval_dataset

        # A loss is computed anyway; predictions are gathered only where metrics need them.
        prediction_loss_only = None
        if self.compute_metrics is None:
            prediction_loss_only = True

        by_name: dict[Language, dict[str, float]] = {}
        self._check_same_scores("evaluate", eval_dataset=datasets)
        for language, dataset in by_language("eval_dataset", datasets).items():
            with self._scoring(language):
                # By name: with persistent workers transformers keeps a loader for each name, and
                # one for all data sets without a name.
                if eval_dataset is None:
                    loader = self.get_eval_dataloader(language)
                else:
                    loader = self.get_test_dataloader(dataset)

                output = self.evaluation_loop(
                    loader,
                    description=f"Evaluation ({language})",
                    prediction_loss_only=prediction_loss_only,
                    ignore_keys=ignore_keys,
                    metric_key_prefix=f"{metric_key_prefix}_{language}",
                )
            by_name[language] = output.metrics

        # One log line of all languages: reporters draw the curves of a step together.
        metrics: dict[str, float] = {}
        for of_language in by_name.values():
            metrics.update(of_language)
        metrics.update(language_means(by_name, metric_key_prefix))

        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def predict(
        self,
        test_dataset: Datasets,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
    ) -> dict[Language, PredictionOutput]:
        """Predict the data of every language with its φ.

        Args:
            test_dataset: language → data.
            ignore_keys: As in `transformers.Trainer`.
            metric_key_prefix: As there.

        Returns:
            language → predictions, labels and metrics (`{prefix}_{language}_{metric}`).
        """
        self._check_same_scores("predict", test_dataset=test_dataset)
        outputs = {}
        for language, dataset in by_language("test_dataset", test_dataset).items():
            with self._scoring(language):
                prefix = f"{metric_key_prefix}_{language}"
                outputs[language] = super().predict(dataset, ignore_keys, prefix)
        return outputs

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **metadata: str | list[str],
    ) -> object:
        """Save the model and publish it with its card; nothing published tells of this machine.

        Args:
            commit_message: The message of the commit.
            blocking: Whether to wait until it is published.
            token: The token; default that of the arguments.
            revision: The branch; default that of the arguments.
            private: Whether a new repository is private; default as the arguments say.
            **metadata: Further metadata of the card.

        Returns:
            The commit, or its future; `None` in processes that do not publish.

        Raises:
            HubError: If the model is over a base that only this machine has.
        """
        if private is not None:
            self.args.hub_private_repo = private

        access = Access(revision or self.args.hub_revision, token or self.args.hub_token)
        return push_run(self, commit_message, blocking=blocking, access=access, metadata=metadata)

    def _check_same_scores(self, call: str, **datasets: object) -> None:
        """Check that all processes score the same weights on the same data."""
        # Within training it is the run that was checked, at its start.
        if not self.is_in_train:
            with naming_lost_process(self):
                check_same_call(self, self._model, f"`{call}()`", datasets)

    @contextmanager
    def _scoring(self, language: Language) -> Iterator[None]:
        """A context in which a language is scored."""
        # Seeded: a collator that draws masks draws the same ones in every evaluation.
        with ExitStack() as contexts:
            contexts.enter_context(naming_lost_process(self))
            contexts.enter_context(self._forward_passes())
            contexts.enter_context(self._model.use_language(language))
            contexts.enter_context(seeded(self.args.seed))
            yield

    def _forward_passes(self) -> AbstractContextManager[None]:
        """The context of forward passes through layers that may be compiled."""
        if self.args.torch_compile:
            return room_for_languages(self._model)
        return nullcontext()

    def get_total_train_batch_size(self, args: MetaAdapterTrainingArguments) -> int:
        """Training rows of an optimizer step, over its languages, processes and micro-steps."""
        languages = args.languages_per_step or len(self.train_dataset)
        rows: int = super().get_total_train_batch_size(args)
        return rows * languages

    def floating_point_ops(self, inputs: StepBatch) -> float:
        """Operations of the training pass over all languages of a step, without meta text."""
        count = super().floating_point_ops
        return sum(count(batch) for batch in inputs["train"].values())

    def _without_unused_columns(self, datasets: Datasets) -> Datasets:
        kept = dict(datasets)
        for language, dataset in datasets.items():
            # A stream may not know its columns: it is read as it is.
            if isinstance(dataset, (Dataset, IterableDataset)) and dataset.column_names:
                kept[language] = self._remove_unused_columns(dataset, language)

        return kept

    def _loss(self, model: LanguageAdapterModel, batch: Batch) -> Tensor:
        with explained_loss(batch, self.label_names):
            # A copy: `compute_loss` takes labels out of it, and a batch is evaluated several times.
            loss: Tensor = self.compute_loss(model, dict(batch))
        return loss
