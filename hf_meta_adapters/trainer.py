"""`MetaAdapterTrainer`: the Trainer of transformers, with the outer step in place of the backward pass."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from hf_meta_adapters._losses import LossFunction
from hf_meta_adapters._train_data import assign_roles, train_dataloader
from hf_meta_adapters._typing import Language
from hf_meta_adapters._updates import Gradients, apply_gradients, check_finite, split_groups
from hf_meta_adapters._watch import StepLog
from hf_meta_adapters.data import LanguageBatchSampler, StepBatch, seeded
from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.meta_step import joint_step, meta_step
from hf_meta_adapters.modeling import LanguageAdapterModel
from hf_meta_adapters.training_args import MetaAdapterTrainingArguments


class MetaAdapterTrainer(Trainer):
    """Train θ by the training loss of all languages, and every φ_l by the meta-gradient (or as the arguments say).

    It is a `transformers.Trainer`: callbacks, schedules, logging, checkpoints and precision work as there. The
    baselines of the paper are settings of it: *joint* is a model with `config=None`, *mono* one with a single
    language, *joint + adapters* is `adapter_update="train"`, the *shared adapter* is `share_adapter=True`.

    Args:
        model: A model of `get_language_model`.
        args: The arguments.
        train_dataset: language → training data, map-style or streaming.
        meta_dataset: language → held-out data of the meta-gradient. If it is not given, a tenth of each training set is
            split off for it (by content, so that no text has both roles).
        eval_dataset: language → selection data. Metrics come per language (`eval_sw_loss`) and as means (`eval_loss`).
        loss_function: `(model, batch) -> loss`, a mean over labels; default the loss that the model returns.
        **trainer_arguments: Everything else that `transformers.Trainer` takes: `data_collator`, `processing_class`,
            `callbacks`, `compute_metrics`, `optimizers`, …

    Raises:
        ConfigurationError: If model, data and arguments cannot work together.
        DataError: If a language is missing or empty, or rows have two roles. Both before any training.

    Example:
        See the README, and docs/tutorials.
    """

    def __init__(
        self,
        model: LanguageAdapterModel,
        args: MetaAdapterTrainingArguments,
        *,
        train_dataset: Mapping[Language, Any] | None = None,
        meta_dataset: Mapping[Language, Any] | None = None,
        eval_dataset: Mapping[Language, Any] | None = None,
        loss_function: LossFunction | None = None,
        **trainer_arguments: Any,
    ) -> None:
        _check_types(model, args)
        self._needs_meta = args.adapter_update != "train"
        self.loss_function = loss_function
        self.meta_dataset: Mapping[Language, Any] | None = None
        if train_dataset is not None:
            train_dataset, self.meta_dataset = assign_roles(
                model.languages, train_dataset, meta_dataset, eval_dataset, needs_meta=self._needs_meta
            )
        super().__init__(
            model=model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **trainer_arguments
        )
        self._base_signature = _columns(model)
        self.label_names = args.label_names or [name for name in self._base_signature if "label" in name] or ["labels"]
        self._micro_batches: list[StepBatch] = []
        self._sampler: LanguageBatchSampler | None = None
        self._watch = StepLog()
        self.add_callback(_SetEpoch(self))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The loader of step batches: for each language of a step a batch of training rows, and one of meta rows."""
        if self.train_dataset is None:
            raise DataError("Training needs `train_dataset`. Found none.")
        datasets = {"train": self._columns_of(self.train_dataset)}
        if self.meta_dataset is not None:
            datasets["meta"] = self._columns_of(self.meta_dataset)
        loader = train_dataloader(datasets, self.data_collator, self.args)
        self._sampler = cast(LanguageBatchSampler, loader.batch_sampler)
        return loader

    def training_step(self, model: Any, inputs: StepBatch, num_items_in_batch: Any = None) -> Tensor:
        """Take the outer step on the micro-batches of an optimizer step, and leave its gradients in `.grad`.

        Returns:
            The mean training loss of the step's languages; zero for all but the last micro-batch, which does the work.
        """
        model.train()
        self._micro_batches.append(self._prepare_inputs(inputs))
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        micro, self._micro_batches = self._micro_batches, []
        batches = {
            role: {key: [one[role][key] for one in micro] for key in several} for role, several in micro[0].items()
        }
        gradients = self._outer_step(batches)
        self._watch.add(gradients)
        return torch.stack(list(gradients.train_loss.values())).mean().to(self.args.device)

    def _outer_step(self, batches: dict[Any, dict[Language, Any]]) -> Gradients:
        """Compute the gradients, in the order that the arguments say, and assign them."""
        args, takes_meta = self.args, self._needs_meta and self.state.global_step % self.args.meta_every == 0
        update = args.adapter_update if takes_meta else args.adapter_update.replace("meta+", "")
        if not takes_meta:
            gradients: Gradients = joint_step(self._model, batches["train"], **self._context())
        elif args.update_order == "simultaneous":
            gradients = self._meta(batches)
        else:
            gradients = self._alternate(batches)
            update = update.replace("meta", "none").replace("none+", "")
        self._check(gradients)
        apply_gradients(self._model, gradients, update, self._loss_scale())
        return gradients

    def _alternate(self, batches: dict[Any, dict[Language, Any]]) -> Gradients:
        """Algorithm 1: update φ first, then take the training gradient with the new φ.

        With a look-ahead per language each φ_i is updated before the next one's gradient is taken, as in the paper.
        """
        each = self.args.lookahead == "per_language"
        for keys in [[key] for key in batches["train"]] if each else [list(batches["train"])]:
            gradients = self._meta(batches, keys)
            self._check(gradients)
            self._watch.add(gradients, losses=False)
            apply_gradients(self._model, gradients, "meta", shared=False)
            if self.args.max_grad_norm:
                own = [p for key in keys for p in self._model.language_parameters(key).values()]
                self.accelerator.clip_grad_norm_(own, self.args.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return joint_step(self._model, batches["train"], **self._context())

    def _meta(self, batches: dict[Any, dict[Language, Any]], keys: list[Language] | None = None) -> Gradients:
        args, rate = self.args, self.args.inner_learning_rate
        return meta_step(
            self._model,
            batches["train"],
            batches["meta"],
            inner_learning_rate=self.optimizer.param_groups[0]["lr"] if rate is None else rate,
            inner_optimizer=args.inner_optimizer,
            optimizer=getattr(self.optimizer, "optimizer", self.optimizer),
            for_languages=keys,
            **self._context(),
            **vars(args.meta_options()),
        )

    def _context(self) -> dict[str, Any]:
        """How losses are evaluated and summed."""
        return {
            "loss_function": self.loss_function,
            "autocast": self.accelerator.autocast,
            "all_reduce": torch.distributed.all_reduce if self.args.world_size > 1 else None,
        }

    @property
    def _model(self) -> LanguageAdapterModel:
        """The model itself: wrappers for data parallelism know nothing of gradients of gradients."""
        return self.accelerator.unwrap_model(self.model)

    def _loss_scale(self) -> Tensor | None:
        """The scale of fp16 training, which the optimizer will divide out."""
        scaler = getattr(self.accelerator, "scaler", None)
        return None if scaler is None else scaler.scale(torch.ones((), device=self.args.device))

    def _check(self, gradients: Gradients) -> None:
        check_finite(gradients, self.state.global_step, Path(self.args.output_dir))

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The optimizer of `transformers.Trainer`, with groups of their own for φ and `adapter_learning_rate`."""
        given = self.optimizer is not None
        optimizer = super().create_optimizer(*args, **kwargs)
        if not given:
            own = [p for key in self._model.languages for p in self._model.language_parameters(key).values()]
            split_groups(optimizer, own, self.args.adapter_learning_rate)
        return optimizer

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the losses of each language and the meter of the meta-signal to the training logs."""
        if "loss" in logs and "learning_rate" in logs:
            logs = {**logs, **self._watch.drain()}
            if self.args.adapter_learning_rate is not None:
                logs["adapter_learning_rate"] = self.optimizer.param_groups[-1]["lr"]
        super().log(logs, *args, **kwargs)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Score every language with its φ, and average.

        Args:
            eval_dataset: language → data; default that of the Trainer.
            ignore_keys: As in `transformers.Trainer`.
            metric_key_prefix: As there.

        Returns:
            `{prefix}_{language}_{metric}` for each language, and `{prefix}_{metric}`, the mean over languages.
        """
        datasets = self.eval_dataset if eval_dataset is None else eval_dataset
        if not isinstance(datasets, Mapping):
            raise DataError("Evaluation needs a dict from language to data. Found "
                            f"`{type(datasets).__name__}`. Write `eval_dataset={{'en': ..., 'sw': ...}}`.")  # fmt: skip
        metrics: dict[str, float] = {}
        values: dict[str, list[float]] = {}
        for key, dataset in self._columns_of(datasets).items():
            prefix = f"{metric_key_prefix}_{key}"
            with self._model.use_language(key), seeded(self.args.seed):
                found = self.evaluation_loop(
                    self.get_eval_dataloader(dataset),
                    description=f"Evaluation ({key})",
                    prediction_loss_only=True if self.compute_metrics is None else None,
                    ignore_keys=ignore_keys,
                    metric_key_prefix=prefix,
                )
            metrics.update(found.metrics)
            for name, value in found.metrics.items():
                values.setdefault(name.removeprefix(f"{prefix}_"), []).append(value)
        whole = [name for name, several in values.items() if len(several) == len(datasets)]
        metrics.update({f"{metric_key_prefix}_{name}": sum(values[name]) / len(datasets) for name in whole})
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def floating_point_ops(self, inputs: StepBatch) -> float:
        """Operations of the training pass over all languages of a step; meta text comes on top and is not counted."""
        return sum(super(MetaAdapterTrainer, self).floating_point_ops(batch) for batch in inputs["train"].values())

    def _columns_of(self, datasets: Mapping[Language, Any]) -> dict[Language, Any]:
        """The data without columns that the model does not take."""
        return {
            key: self._remove_unused_columns(one, key) if hasattr(one, "remove_columns") and one.column_names else one
            for key, one in datasets.items()
        }

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = [*self._base_signature, "label", "label_ids", *self.label_names]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write the model and its languages, the tokenizer, and the arguments; weights as safetensors."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        self._model.save_pretrained(folder)
        tokenizer = self.processing_class or getattr(self.data_collator, "tokenizer", None)
        if tokenizer is not None:
            tokenizer.save_pretrained(str(folder))
        (folder / "training_args.json").write_text(json.dumps(self.args.to_sanitized_dict(), indent=2) + "\n")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._model.load_weights(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best is None:
            raise ConfigurationError("There is no best checkpoint to load. Evaluate and save during training.")
        self._model.load_weights(best)


class _SetEpoch(TrainerCallback):
    """Tells the sampler which epoch begins."""

    def __init__(self, trainer: MetaAdapterTrainer) -> None:
        self._trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Set the epoch from the number of steps taken, which is exact after a resume too."""
        sampler = self._trainer._sampler
        if sampler is not None:
            sampler.set_epoch(state.global_step * args.gradient_accumulation_steps // len(sampler))


def _check_types(model: object, args: object) -> None:
    if not isinstance(model, LanguageAdapterModel):
        raise ConfigurationError(
            f"`model` must be a LanguageAdapterModel. Found `{type(model).__name__}`. Write "
            "`get_language_model(model, BottleneckConfig(), languages=[...])`, or with `config=None` for a baseline."
        )
    if not isinstance(args, MetaAdapterTrainingArguments):
        raise ConfigurationError(
            f"`args` must be MetaAdapterTrainingArguments. Found `{type(args).__name__}`. It takes the same arguments."
        )


def _columns(model: LanguageAdapterModel) -> list[str]:
    """The arguments of the base model's forward pass."""
    return list(inspect.signature(model.base_model.forward).parameters)
