"""`MetaAdapterTrainer`: the Trainer of transformers, with the outer step in place of the backward pass."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import HubStrategy, PredictionOutput
from transformers.utils import find_labels

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.data import LanguageBatchSampler
from hf_meta_adapters.data.language_collator import StepBatch
from hf_meta_adapters.data.seeding import seeded
from hf_meta_adapters.hub.manifest import read_manifest
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.losses import explained_loss
from hf_meta_adapters.steps.sharding import gathered
from hf_meta_adapters.training._apply_gradients import split_groups
from hf_meta_adapters.training._batch_check import BatchCheck, check_weights
from hf_meta_adapters.training._checkpoints import read_seal
from hf_meta_adapters.training._compile import compile_layers
from hf_meta_adapters.training._launch_checks import check_distribution
from hf_meta_adapters.training._outer_step import OuterStep, mean_loss
from hf_meta_adapters.training._publishing import push_checkpoint, run_record, write_card
from hf_meta_adapters.training._resumable_trainer import KeepPosition, ResumableTrainer
from hf_meta_adapters.training._step_log import StepLog
from hf_meta_adapters.training._train_data import (
    assign_roles,
    by_language,
    check_arguments,
    read_settings,
    train_dataloader,
)
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments
from hf_meta_adapters.training.default_collator import get_data_collator


class MetaAdapterTrainer(ResumableTrainer):
    """Train θ by the training loss of all languages, and every φ_l by the meta-gradient (or as the arguments say).

    It is a `transformers.Trainer`: callbacks, schedules, logging, checkpoints and precision work as
    there. The baselines of the paper are settings of it: *joint* is a model with `config=None`,
    *mono* one with a single language, *joint + adapters* is `adapter_update="train"`, the *shared
    adapter* is `share_adapter=True`. Where no language has parameters of its own, there is no
    meta-gradient to take and no meta text is needed.

    Args:
        model: A model of `get_language_model`.
        args: The arguments.
        train_dataset: language → training data, map-style or streaming.
        meta_dataset: language → held-out data of the meta-gradient. If it is not given, a tenth of
            each training set is split off for it (by content, so that no text has both roles).
        eval_dataset: language → selection data. Metrics come per language (`eval_sw_loss`) and as
            means (`eval_loss`).
        **trainer_arguments: Everything else that `transformers.Trainer` takes: `processing_class`,
            `data_collator` (by default what `get_data_collator` chooses for the model and the
            tokenizer), `callbacks`, `compute_metrics`, `compute_loss_func` (which must return a
            mean over labels), `optimizers`, …

    Raises:
        ConfigurationError: If model, data and arguments cannot work together.
        DataError: If a language is missing or empty, or rows have two roles. Both before any
            training.

    Example:
        >>> import tempfile
        >>> from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM
        >>> from hf_meta_adapters import BottleneckConfig, get_language_model
        >>> base = XLMRobertaForMaskedLM(XLMRobertaConfig(vocab_size=99, hidden_size=8, num_hidden_layers=1,
        ...                              num_attention_heads=1, intermediate_size=8))
        >>> model = get_language_model(base, BottleneckConfig(bottleneck_size=2), languages=["en", "sw"])
        >>> def rows(first):
        ...     return [{"input_ids": [first + row, 5, 6], "labels": [-100, 5, 6]} for row in range(20)]
        >>> args = MetaAdapterTrainingArguments(tempfile.mkdtemp(), max_steps=1, report_to="none", disable_tqdm=True)
        >>> trainer = MetaAdapterTrainer(model, args, train_dataset={"en": rows(7), "sw": rows(40)})
        >>> trainer.train().global_step  # doctest: +ELLIPSIS
        {'train_runtime': ...}
        1
    """

    def __init__(
        self,
        model: LanguageAdapterModel,
        args: MetaAdapterTrainingArguments,
        *,
        train_dataset: Mapping[Language, Any] | None = None,
        meta_dataset: Mapping[Language, Any] | None = None,
        eval_dataset: Mapping[Language, Any] | None = None,
        **trainer_arguments: Any,
    ) -> None:
        check_arguments(model, args, trainer_arguments.get("optimizers", (None,))[0])
        self._adapters = [
            p for key in model.languages for p in model.language_parameters(key).values()
        ]
        takes_meta = args.adapter_update != "train" and bool(self._adapters)
        self.meta_dataset: Mapping[Language, Any] | None = None
        if train_dataset is not None:
            train_dataset, self.meta_dataset = assign_roles(
                model.languages, train_dataset, meta_dataset, eval_dataset, needs_meta=takes_meta
            )
        args._n_gpu = min(
            args.n_gpu, 1
        )  # DataParallel would scatter a step batch; several devices need a launcher
        tokenizer = trainer_arguments.get("processing_class")
        if trainer_arguments.get("data_collator") is None and isinstance(
            tokenizer, PreTrainedTokenizerBase
        ):
            trainer_arguments["data_collator"] = get_data_collator(model, tokenizer)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **trainer_arguments,
        )
        check_distribution(args, model, self.accelerator)
        # The wrapper takes `**inputs`, of which nothing can be read: what the base model takes is
        # what counts.
        self.label_names = args.label_names or find_labels(type(model.base_model)) or ["labels"]
        accepted = list(inspect.signature(model.base_model.forward).parameters)
        self._signature_columns: list[str] | None = [
            *accepted,
            "label",
            "label_ids",
            *self.label_names,
        ]
        self.model_accepts_loss_kwargs = False
        self.scores: list[Any] = []
        """What else was measured of the model (`LanguageScores`), for the model card."""
        self._micro_batches: list[StepBatch] = []
        self._sampler: LanguageBatchSampler | None = None
        self._watch = StepLog()
        self._splits = False  # whether φ has groups of its own in the optimizer
        self._outer_step = OuterStep(args, takes_meta, self._loss, self._watch, self.progress)
        self._outer_step.make_sparse(model)
        self._outer_step.make_routed(model)
        if args.torch_compile:
            compile_layers(model, backend=args.torch_compile_backend, mode=args.torch_compile_mode)
            # it would compile a wrapper that no step goes through
            self.accelerator.state.dynamo_plugin.backend = "NO"
        self.add_callback(KeepPosition(self))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The loader of step batches: for each language of a step a batch of training rows, and one of meta rows."""
        datasets = {"train": self._columns_of(by_language("train_dataset", self.train_dataset))}
        if self.meta_dataset is not None:
            datasets["meta"] = self._columns_of(self.meta_dataset)
        collator = self._get_collator_with_removed_columns(self.data_collator, "training")
        check = BatchCheck(self._model)
        loader = train_dataloader(datasets, collator, self.args, self._train_batch_size, check)
        self._sampler = cast(LanguageBatchSampler, loader.batch_sampler)
        return loader

    def training_step(
        self, model: Any, inputs: StepBatch, num_items_in_batch: Any = None
    ) -> Tensor:
        """Take the outer step on the micro-batches of an optimizer step, and leave its gradients in `.grad`.

        Returns:
            The mean training loss of the step's languages; zero for all but the last micro-batch,
            which does the work.
        """
        model.train()
        # of optimizers that evaluate at other weights than they train at (schedule-free)
        self.optimizer.train()
        self._micro_batches.append(self._prepare_inputs(inputs))
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        micro, self._micro_batches = self._micro_batches, []
        batches = {
            role: {key: [one[role][key] for one in micro] for key in several}
            for role, several in micro[0].items()
        }
        step = self.state.global_step
        gradients = self._outer_step(
            self._model, batches, optimizer=self.optimizer, accelerator=self.accelerator, step=step
        )
        self._adapter_rate = self.optimizer.param_groups[-1]["lr"]
        sampler = cast(LanguageBatchSampler, self._sampler)
        self.progress.add_step(batches, {role: sampler.rows_per_step(role) for role in batches})
        return mean_loss(gradients).to(self.args.device)

    def _loss(self, model: Any, batch: Batch) -> Tensor:
        # of a copy, since `compute_loss` takes labels out of the batch, and a batch is evaluated
        # several times
        with explained_loss(batch, self.label_names):
            return self.compute_loss(model, dict(batch))

    @property
    def _model(self) -> LanguageAdapterModel:
        """The model itself: wrappers for data parallelism know nothing of gradients of gradients."""
        return self.accelerator.unwrap_model(self.model)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The optimizer of `transformers.Trainer`, with groups of their own for φ and `adapter_learning_rate`."""
        self._splits = self.optimizer is None and bool(self._adapters)
        optimizer = super().create_optimizer(*args, **kwargs)
        if self._splits:
            beside_shared = bool(self._model.shared_parameters())
            split_groups(
                optimizer, self._adapters, self.args.adapter_rate(beside_shared=beside_shared)
            )
        return optimizer

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the losses of each language and the meter of the meta-signal to the training logs."""
        if "loss" in logs and "learning_rate" in logs:
            logs = {**logs, **self._watch.drain(), **self.progress.logs()}
            if self._splits:
                logs["adapter_learning_rate"] = self._adapter_rate
        super().log(logs, *args, **kwargs)

    def evaluate(
        self,
        eval_dataset: Any = None,
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
        datasets = by_language(
            "eval_dataset", self.eval_dataset if eval_dataset is None else eval_dataset
        )
        metrics: dict[str, float] = {}
        values: dict[str, list[float]] = {}
        for key, dataset in datasets.items():
            prefix = f"{metric_key_prefix}_{key}"
            with self._model.use_language(key), seeded(self.args.seed):
                found = self.evaluation_loop(
                    # by key: under persistent workers it keeps one loader for all data sets that
                    # have none
                    (
                        self.get_eval_dataloader(key)
                        if eval_dataset is None
                        else self.get_test_dataloader(dataset)
                    ),
                    description=f"Evaluation ({key})",
                    prediction_loss_only=True if self.compute_metrics is None else None,
                    ignore_keys=ignore_keys,
                    metric_key_prefix=prefix,
                )
            metrics.update(found.metrics)
            for name, value in found.metrics.items():
                if isinstance(value, Real):
                    values.setdefault(name.removeprefix(f"{prefix}_"), []).append(float(value))
        whole = [name for name, several in values.items() if len(several) == len(datasets)]
        metrics.update(
            {f"{metric_key_prefix}_{name}": sum(values[name]) / len(datasets) for name in whole}
        )
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def predict(
        self,
        test_dataset: Any,
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
        found = {}
        for key, dataset in by_language("test_dataset", test_dataset).items():
            with self._model.use_language(key), seeded(self.args.seed):
                found[key] = super().predict(dataset, ignore_keys, f"{metric_key_prefix}_{key}")
        return found

    def get_total_train_batch_size(self, args: MetaAdapterTrainingArguments) -> int:
        """Training rows of an optimizer step: those of all its languages, processes and micro-steps."""
        return super().get_total_train_batch_size(args) * (
            args.languages_per_step or len(self.train_dataset)
        )

    def floating_point_ops(self, inputs: StepBatch) -> float:
        """Operations of the training pass over all languages of a step; meta text comes on top and is not counted."""
        return sum(
            super(MetaAdapterTrainer, self).floating_point_ops(batch)
            for batch in inputs["train"].values()
        )

    def _columns_of(self, datasets: Mapping[Language, Any]) -> dict[Language, Any]:
        """The data without columns that the model does not take."""
        return {
            key: (
                self._remove_unused_columns(one, key)
                if hasattr(one, "remove_columns") and one.column_names
                else one
            )
            for key, one in datasets.items()
        }

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        """Write the model and its languages, the tokenizer, and the arguments; weights as safetensors."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        self._model.save_pretrained(
            folder, fallbacks=self._outer_step.check.level, **run_record(self)
        )
        tokenizer = self.processing_class or getattr(self.data_collator, "tokenizer", None)
        if tokenizer is not None:
            tokenizer.save_pretrained(str(folder))
        (folder / "training_args.json").write_text(
            json.dumps(self.args.to_sanitized_dict(), indent=2) + "\n"
        )

    def create_model_card(self, *_: Any, **metadata: Any) -> None:
        """Write the card of the family to the output folder, over which what others wrote on it on the Hub is kept.

        Args:
            *_: The language, which is known.
            **metadata: Further metadata, of those that `transformers.Trainer` takes `license` and
                `tags`.
        """
        if self.is_world_process_zero():
            write_card(Path(self.args.output_dir), self.hub_model_id, self.args, metadata)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # without `super()`, which would leave out the languages and add the arguments as a pickle
        if (
            not self._saving
            and self.is_world_process_zero()
            and self.args.hub_strategy != HubStrategy.END
        ):
            self.push_in_progress = push_checkpoint(self, Path(checkpoint_folder))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with gathered(self._model, write=True):
            self._model.load_weights(resume_from_checkpoint)
        check_weights(self._model, resume_from_checkpoint)
        details = read_manifest(Path(resume_from_checkpoint)).details
        self._outer_step.check.level = cast(int, details.get("fallbacks", 0))

    def _load_best_model(self) -> None:
        read_seal(Path(cast(str, self.state.best_model_checkpoint)))
        with gathered(self._model, write=True):
            self._model.load_weights(cast(str, self.state.best_model_checkpoint))

    def run_settings(self) -> dict[str, Any]:
        """What must be the same in a resumed run: which rows of which languages are read in which order."""
        return read_settings(
            self._model.languages, self.train_dataset, self.meta_dataset, self.args
        )

    def expected_examples(self, step: int) -> dict[Any, dict[Language, int]]:
        """Role → language → rows that a run has read after so many optimizer steps."""
        sampler = cast(LanguageBatchSampler, self._sampler)
        return sampler.examples_seen(
            *divmod(step, len(sampler) // self.args.gradient_accumulation_steps)
        )
