"""A Trainer for a model with languages: their data, their scores, and one loss for all heads."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler
from transformers import PreTrainedTokenizerBase, Trainer, TrainerControl
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput
from transformers.utils import find_labels

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.data.fingerprint import first_rows
from hf_meta_adapters.data.language_collator import StepBatch
from hf_meta_adapters.data.language_datasets import is_map_style
from hf_meta_adapters.data.seeding import seeded
from hf_meta_adapters.hub.client import Access
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.counted_labels import pass_counts_on
from hf_meta_adapters.steps.losses import explained_loss
from hf_meta_adapters.training._call_checks import check_call, refuse_search
from hf_meta_adapters.training._compile import room_for_languages
from hf_meta_adapters.training._evaluation_bar import batch_count, show_language
from hf_meta_adapters.training._given_data import (
    Datasets,
    check_one_language,
    check_scored,
    chosen_data,
    named_sets,
)
from hf_meta_adapters.training._idle_languages import tell_idle_languages
from hf_meta_adapters.training._label_check import check_labeled
from hf_meta_adapters.training._language_means import joined_metrics
from hf_meta_adapters.training._launch_checks import check_distribution
from hf_meta_adapters.training._lost_process import naming_lost_process
from hf_meta_adapters.training._metric_name import check_metric_name
from hf_meta_adapters.training._precision_check import check_precision
from hf_meta_adapters.training._publishing import push_run
from hf_meta_adapters.training._start_together import check_same_call
from hf_meta_adapters.training._tokenized import check_tokenized
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments
from hf_meta_adapters.training.default_collator import get_data_collator

if TYPE_CHECKING:
    from typing_extensions import Self


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

    def __new__(cls, *_: object, **given: object) -> Self:
        """Check the arguments by name: `transformers.Trainer` has some that cannot work here."""
        check_call(given, inspect.signature(cls.__init__).parameters)
        return super().__new__(cls)

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
        # torch warns of each loader that would pin memory for a device that is not there.
        if args.device.type == "cpu":
            args.dataloader_pin_memory = False
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **trainer_arguments,
        )
        check_distribution(args, model, self.accelerator)
        self._read_signature(model)

        # A subclass that scores in its own way may have other metrics.
        scores = (type(self).evaluate, type(self).evaluation_loop)
        is_own = scores != (LanguageTrainer.evaluate, LanguageTrainer.evaluation_loop)
        only_losses = self.compute_metrics is None or args.prediction_loss_only
        if only_losses and not is_own:
            check_metric_name(args.metric_for_best_model, eval_dataset)
        if args.eval_strategy != "no" and not is_own:
            check_labeled(eval_dataset, self.data_collator, self.label_names)
        tell_idle_languages(model, args, train_dataset)

    def hyperparameter_search(self, *_: object, **__: object) -> NoReturn:
        """Refused, as `model_init` is: a Trainer has one model."""
        refuse_search()

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
        eval_dataset: Datasets | Mapping[str, Datasets] | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Score every language with its φ, and average.

        Args:
            eval_dataset: language → data, or several such sets by name (`{"dev": {"en": ...},
                "test": {...}}`), whose names come after the prefix: `eval_dev_en_loss`. A language
                or the name of a set stands for that part of the Trainer's own data, all of which
                are the default.
            ignore_keys: As in `transformers.Trainer`.
            metric_key_prefix: As there.

        Returns:
            `{prefix}_{language}_{metric}` for each language; `{prefix}_{metric}`, the mean over
            languages, each of which counts the same; and the speed of the whole evaluation
            (`{prefix}_runtime`, `{prefix}_samples_per_second`, `{prefix}_steps_per_second`).

        Raises:
            DataError: If there are no data by language, or a language has no rows or no labels.
            LanguageError: If the model does not have a language.
        """
        self._memory_tracker.start()  # here: it asks for the name of its caller
        given = chosen_data(self.eval_dataset, eval_dataset)

        by_prefix = {metric_key_prefix: given}
        sets = named_sets(given)
        if sets is not None:
            by_prefix = {f"{metric_key_prefix}_{name}": data for name, data in sets.items()}

        metrics: dict[str, float] = {}
        for prefix, data in by_prefix.items():
            metrics.update(self._score(data, ignore_keys, prefix))
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def _score(self, given: object, ignore_keys: list[str] | None, prefix: str) -> dict[str, float]:
        """The metrics of one set of data, which are logged."""
        start = time.time()
        self._check_same_scores("evaluate", eval_dataset=given)
        datasets = check_scored("eval_dataset", given, self._model.languages)

        # A loss is computed anyway; predictions are gathered only where metrics need them.
        prediction_loss_only = None
        if self.compute_metrics is None:
            prediction_loss_only = True

        outputs: dict[Language, EvalLoopOutput] = {}
        batch_size = self.args.eval_batch_size * self.args.world_size
        batches = batch_count(datasets, batch_size)
        for language in datasets:
            with self._scoring(language, batches):
                outputs[language] = self.evaluation_loop(
                    self._eval_loader(language, datasets),
                    description=f"Evaluation ({language})",
                    prediction_loss_only=prediction_loss_only,
                    ignore_keys=ignore_keys,
                    metric_key_prefix=f"{prefix}_{language}",
                )

        metrics = joined_metrics(outputs, prefix, start, batch_size)
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _eval_loader(self, language: Language, datasets: Datasets) -> DataLoader[Any]:
        # By name: with persistent workers transformers keeps a loader for each name, and one for
        # all data sets without a name.
        dataset, own = datasets[language], self.eval_dataset
        if isinstance(own, Mapping) and own.get(language) is dataset:
            return self.get_eval_dataloader(language)
        return self.get_test_dataloader(dataset)

    def get_eval_dataloader(self, eval_dataset: object = None) -> DataLoader[object]:
        """The loader of the evaluation data of one language.

        Args:
            eval_dataset: A language of the Trainer's own data, or the data of one language.

        Returns:
            The loader.

        Raises:
            DataError: If it is neither.
        """
        if isinstance(eval_dataset, str):
            chosen_data(self.eval_dataset, eval_dataset)
        check_one_language("get_eval_dataloader", eval_dataset)
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: object) -> DataLoader[object]:
        """The loader of the test data of one language, as in `transformers.Trainer`."""
        check_one_language("get_test_dataloader", test_dataset)
        return super().get_test_dataloader(test_dataset)

    def predict(
        self,
        test_dataset: Datasets,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
    ) -> dict[Language, PredictionOutput]:
        """Predict the data of every language with its φ.

        Args:
            test_dataset: language → data, with labels or without.
            ignore_keys: As in `transformers.Trainer`.
            metric_key_prefix: As there.

        Returns:
            language → predictions, labels and metrics (`{prefix}_{language}_{metric}`); no labels,
            and no metrics but the speed, of rows without labels.

        Raises:
            DataError: If there are no data by language, or a language has no rows.
            LanguageError: If the model does not have a language.
        """
        self._check_same_scores("predict", test_dataset=test_dataset)
        datasets = check_scored("test_dataset", test_dataset, self._model.languages)

        outputs = {}
        batch_size = self.args.eval_batch_size * self.args.world_size
        for language, dataset in datasets.items():
            # transformers closes its bar after each of them.
            with self._scoring(language, batch_count({language: dataset}, batch_size)):
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
    def _scoring(self, language: Language, batches: int | None) -> Iterator[None]:
        """A context in which a language is scored; `batches` is what the progress bar is for."""
        if self.is_world_process_zero():
            show_language(self.callback_handler.callbacks, language, batches)

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
        name = getattr(self.model, "main_input_name", "input_ids")
        places = sum(batch[name].numel() for batch in inputs["train"].values() if name in batch)

        # Once for all languages: each time, it counts the parameters of the model.
        return super().floating_point_ops({name: torch.empty(places, device="meta")})

    def _get_eval_sampler(self, eval_dataset: Any) -> SequentialSampler | None:
        # In the order of the rows, also where those of training are grouped by length: predictions
        # have to be told apart.
        if self.args.world_size == 1 and is_map_style(eval_dataset):
            return SequentialSampler(eval_dataset)
        return None  # each process takes its share of them in order

    def _without_unused_columns(self, datasets: Datasets) -> Datasets:
        kept = dict(datasets)
        for language, dataset in datasets.items():
            # A stream may not know its columns: it is read as it is.
            if isinstance(dataset, (Dataset, IterableDataset)) and dataset.column_names:
                kept[language] = self._remove_unused_columns(dataset, language)

        return kept

    def _left_out(self) -> list[str]:
        """The columns of training rows that no batch has, as the model does not take them."""
        if not self.args.remove_unused_columns or self.train_dataset is None:
            return []

        rows = first_rows(next(iter(self.train_dataset.values())), 1)
        names = [name for row in rows if isinstance(row, Mapping) for name in row]
        return [name for name in names if name not in self._signature_columns]

    def _loss(self, model: LanguageAdapterModel, batch: Batch) -> Tensor:
        with explained_loss(batch, self.label_names, self._left_out):
            # A copy: `compute_loss` takes labels out of it, and a batch is evaluated several times.
            loss: Tensor = self.compute_loss(model, dict(batch))
        return loss
