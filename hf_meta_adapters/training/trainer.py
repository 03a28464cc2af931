"""`MetaAdapterTrainer`: the Trainer of transformers, with the outer step for the backward pass."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_utils import TrainOutput

from hf_meta_adapters.data.key import Keyed, Role
from hf_meta_adapters.data.language_collator import StepBatch
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.sharding import without_head
from hf_meta_adapters.training._batch_check import BatchCheck
from hf_meta_adapters.training._checkpoint_writer import CheckpointWriter
from hf_meta_adapters.training._combined_arguments import needs_meta_gradient, needs_meta_text
from hf_meta_adapters.training._compile import compile_layers
from hf_meta_adapters.training._dataset_roles import MetaData, assign_roles, datasets_by_role
from hf_meta_adapters.training._given_data import Datasets
from hf_meta_adapters.training._keep_position import KeepPosition
from hf_meta_adapters.training._lost_process import naming_lost_process
from hf_meta_adapters.training._optimizer_groups import adapter_parameters, give_rates
from hf_meta_adapters.training._outer_step import OuterStep
from hf_meta_adapters.training._progress import Progress
from hf_meta_adapters.training._reptile import SequentialReptile
from hf_meta_adapters.training._row_order import row_order
from hf_meta_adapters.training._run_identity import RunIdentity
from hf_meta_adapters.training._run_settings import run_parts
from hf_meta_adapters.training._saving_trainer import SavingTrainer
from hf_meta_adapters.training._setup_checks import check_setup
from hf_meta_adapters.training._start_together import (
    check_same_call,
    check_same_checkpoint,
    on_all,
)
from hf_meta_adapters.training._step_at_hand import StepAtHand, join_micro_batches
from hf_meta_adapters.training._step_log import StepLog
from hf_meta_adapters.training._train_loader import train_dataloader, train_sampler
from hf_meta_adapters.training._weight_check import check_weights
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments
from hf_meta_adapters.training.conflict_callback import GradientConflictCallback

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from hf_meta_adapters.training._trainer_keywords import TrainerKeywords


class MetaAdapterTrainer(SavingTrainer):
    """Trains θ by the training loss of all languages, and every φ_l by the meta-gradient.

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
            `"train"`, for little text, holds nothing out: each step takes its meta rows from the
            training rows that it does not train on.
        eval_dataset: language → selection data, or several such sets by name. Metrics come per
            language (`eval_sw_loss`, `eval_dev_sw_loss`) and as means (`eval_loss`).
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
        >>> config = XLMRobertaConfig(vocab_size=99, hidden_size=8, num_hidden_layers=1,
        ...                           num_attention_heads=1, intermediate_size=8)
        >>> base = XLMRobertaForMaskedLM(config)
        >>> model = get_language_model(base, BottleneckConfig(bottleneck_size=2), ["en", "sw"])
        >>> def rows(first):
        ...     labels = [-100, 5, 6]
        ...     return [{"input_ids": [first + row, 5, 6], "labels": labels} for row in range(20)]
        >>> args = MetaAdapterTrainingArguments(
        ...     tempfile.mkdtemp(), max_steps=1, report_to="none", disable_tqdm=True
        ... )
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
        train_dataset: Datasets | None = None,
        meta_dataset: MetaData | None = None,
        eval_dataset: Datasets | None = None,
        **trainer_arguments: Unpack[TrainerKeywords],
    ) -> None:
        optimizer, _ = trainer_arguments.get("optimizers", (None, None))
        check_setup(model, args, optimizer)

        self.meta_dataset: MetaData | None = None
        """language → data of the meta-gradient, or `"train"`."""
        self.progress = Progress()
        """Rows seen of each language, steps skipped."""
        self.scores = []
        """What else was measured of the model (`LanguageScores`), for the model card."""
        self._adapters = adapter_parameters(model, model.languages)
        self._adapter_rate: float | None = None  # of the last step, where φ has groups of its own
        self._rows_per_step: dict[Role, int] = {}
        self._micro_batches: list[StepBatch] = []  # of an optimizer step that is not complete
        self._step_log = StepLog()
        self._writer = CheckpointWriter(args)
        self._run = RunIdentity(args)

        # Without parameters of its own, no language has a meta-gradient: a baseline of the paper.
        takes_meta = needs_meta_gradient(
            args.shared_update, args.adapter_update, has_adapters=bool(self._adapters)
        )
        needs_meta = takes_meta and needs_meta_text(args.lookahead, meta_dataset)
        if train_dataset is not None:
            train_dataset, self.meta_dataset = assign_roles(
                model.languages,
                train_dataset,
                meta_dataset,
                eval_dataset,
                needs_meta=needs_meta,
                args=args,
            )

        super().__init__(
            model, args, train_dataset=train_dataset, eval_dataset=eval_dataset, **trainer_arguments
        )

        self._outer_step = OuterStep(
            args,
            model,
            self._loss,
            takes_meta=takes_meta,
            log=self._step_log,
            progress=self.progress,
            sharded=self.is_fsdp_enabled,
        )
        if args.torch_compile:
            compile_layers(model, backend=args.torch_compile_backend, mode=args.torch_compile_mode)
            # Accelerate would compile a wrapper that no step goes through.
            self.accelerator.state.dynamo_plugin.backend = "NO"

        self._reptile = SequentialReptile(args, model)
        self.add_callback(self._reptile)
        self.add_callback(KeepPosition(self.progress, self._micro_batches, self._catch_up))

    def add_callback(self, callback: type[TrainerCallback] | TrainerCallback) -> None:
        """Add a callback, as in `transformers.Trainer`.

        A `GradientConflictCallback` logs through this Trainer from then on.
        """
        super().add_callback(callback)

        # All of them: those given to the constructor do not come through this method.
        for added in self.callback_handler.callbacks:
            if isinstance(added, GradientConflictCallback):
                added.trainer = self

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: object, **kwargs: object
    ) -> TrainOutput:
        """Train, from the beginning or from a checkpoint.

        Args:
            resume_from_checkpoint: The folder of a checkpoint, or `True` for the newest in
                `output_dir` that is complete, undamaged, and of the run that was started last
                there; a warning names later ones that are not.
            *args: As in `transformers.Trainer`.
            **kwargs: As there.

        Returns:
            As there: steps, mean loss, and metrics.

        Raises:
            CheckpointError: If the checkpoint is damaged, or of another run, or if another run is
                training in `output_dir`. Nothing has been changed then.
            ConfigurationError: If processes were given different models, data or arguments, or one
                of them cannot start.
            DataError: After the last step, if a language had no label in any of its steps.
            MetaAdapterError: If another process of the run was lost.
        """
        with ExitStack() as contexts:
            contexts.enter_context(naming_lost_process(self))
            self._check_same_run(resume_from_checkpoint)

            parts = run_parts(self, self._model, self._without_unused_columns)
            run = self._run.training(parts, resume_from_checkpoint)
            checkpoint = contexts.enter_context(run)
            check_same_checkpoint(self, checkpoint)

            contexts.enter_context(self._forward_passes())
            if self.is_fsdp_enabled:
                # Accelerate shards the head by itself, and its bias would be in two groups.
                contexts.enter_context(without_head(self.model))
            output = super().train(checkpoint, *args, **kwargs)

        self.progress.check_labels()
        return output

    def _check_same_run(self, resume_from_checkpoint: str | bool | None) -> None:
        datasets = {
            "train_dataset": self.train_dataset,
            "meta_dataset": self.meta_dataset,
            "eval_dataset": self.eval_dataset,
        }
        call = f"`train(resume_from_checkpoint={bool(resume_from_checkpoint)})`"
        check_same_call(self, self._model, call, datasets, trains=True)

        # The weights of a checkpoint are checked when they are read.
        if not resume_from_checkpoint:
            on_all(self.args, lambda: check_weights(self._model))

    def _inner_training_loop(
        self, batch_size: int | None = None, *args: object, **kwargs: object
    ) -> TrainOutput:
        # transformers 4 would take it from the checkpoint, of perhaps more or fewer processes.
        if not self.args.auto_find_batch_size:
            batch_size = self.args.train_batch_size
        return super()._inner_training_loop(batch_size, *args, **kwargs)

    def get_train_dataloader(self) -> DataLoader[Keyed]:
        """The loader of step batches.

        A step batch holds a batch of training rows for each language of the step, and one of meta
        rows.
        """
        datasets = datasets_by_role(
            self.train_dataset, self.meta_dataset, self._without_unused_columns, self.args
        )

        # By all columns: the model does not take that of the lengths.
        given = datasets_by_role(self.train_dataset, self.meta_dataset, lambda x: x, self.args)
        order = row_order(given, self.args, self._model)

        # Not the size of the arguments, which `auto_find_batch_size` may have found too large.
        sampler = train_sampler(datasets, self.args, self._train_batch_size, order)
        self._rows_per_step = {role: sampler.rows_per_step(role) for role in datasets}

        # Not prepared by Accelerate: the sampler itself gives each process its rows.
        collator = self._get_collator_with_removed_columns(self.data_collator, "training")
        check = BatchCheck(self._model)
        return self._spared(train_dataloader(datasets, sampler, collator, self.args, check))

    def training_step(
        self, model: nn.Module, inputs: StepBatch, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Take the outer step on the micro-batches of an optimizer step; gradients go to `.grad`.

        Returns:
            The mean training loss of the step's languages; zero for all but the last micro-batch,
            which does the work.
        """
        model.train()
        self.optimizer.train()  # schedule-free optimizers evaluate at other weights

        self._micro_batches.append(self._prepare_inputs(inputs))
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)

        # One step over all of them, not a sum of steps: θ must not move between micro-batches.
        batches = join_micro_batches(self._micro_batches)
        self._micro_batches.clear()

        step = StepAtHand(
            self.state.global_step, self._model, batches, self.optimizer, self.accelerator
        )
        loss = self._outer_step(step)

        # For the log, which is written when the schedule has moved on to the next step.
        if self._adapter_rate is not None:
            self._adapter_rate = self.optimizer.param_groups[-1]["lr"]
        self.progress.add_step(batches, self._rows_per_step)
        return loss.to(self.args.device)

    def create_optimizer(self, *args: object, **kwargs: object) -> torch.optim.Optimizer:
        """The optimizer of `transformers.Trainer`, with groups and rates for φ and embeddings."""
        is_given = self.optimizer is not None
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)

        # Now, before the schedule is made: it starts from the rates of the groups that it finds.
        if not is_given:
            self._adapter_rate = give_rates(optimizer, self._model, self._adapters, self.args)
        return optimizer

    def log(self, logs: dict[str, float], *args: object, **kwargs: object) -> None:
        """Add the losses of each language and the meter of the meta-signal to the training logs."""
        # Of training: those of evaluation and of the end of a run do not have both.
        if "loss" in logs and "learning_rate" in logs:
            logs = {**logs, **self._step_log.drain(), **self.progress.logs()}
            if self._adapter_rate is not None:
                logs["adapter_learning_rate"] = self._adapter_rate
        super().log(logs, *args, **kwargs)

    def _evaluate(self, *args: object, **kwargs: object) -> dict[str, float]:
        with self.progress.paused():
            metrics: dict[str, float] = super()._evaluate(*args, **kwargs)
        return metrics
