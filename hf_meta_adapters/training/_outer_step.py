"""What an optimizer step of the Trainer computes, in the order that the arguments say; gradients end up in `.grad`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.errors import ConfigurationError, NonFiniteLossError
from hf_meta_adapters.meta import MetaGradients
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.joint_step import joint_step
from hf_meta_adapters.steps.language_groups import check_groups
from hf_meta_adapters.steps.losses import LossFunction
from hf_meta_adapters.steps.meta_step import meta_step
from hf_meta_adapters.steps.routed_loss import RoutedLoss
from hf_meta_adapters.steps.sparse_head import SparseHead
from hf_meta_adapters.training._apply_gradients import (
    Gradients,
    apply_gradients,
    check_finite,
    skip_step,
)
from hf_meta_adapters.training._progress import Progress
from hf_meta_adapters.training._self_check import SelfCheck
from hf_meta_adapters.training._step_log import StepLog
from hf_meta_adapters.training._undo import Undo
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

StepBatches = Mapping[Any, Mapping[Language, Sequence[Batch]]]


class OuterStep:
    """The outer step on the micro-batches of an optimizer step: of joint training, or of Algorithm 1.

    Args:
        args: The arguments.
        takes_meta: Whether φ is updated by meta-gradients.
        loss_function: Evaluates a batch.
        log: Where losses and the meter go.
        progress: Where steps that are skipped are counted.
    """

    def __init__(
        self,
        args: MetaAdapterTrainingArguments,
        takes_meta: bool,
        loss_function: LossFunction,
        log: StepLog,
        progress: Progress,
    ) -> None:
        self._args = args
        self._takes_meta = takes_meta
        self._loss_function = loss_function
        self._log = log
        self._progress = progress
        self.check = SelfCheck(args.meta_options(), args.fidelity_check_steps, args.min_fidelity)
        """Which setting is in use."""

    def make_sparse(self, model: LanguageAdapterModel) -> None:
        """Evaluate the head of a language model at labelled positions only, as far as the arguments want it."""
        wanted = self._args.sparse_head
        if wanted is not False:
            self._loss_function = SparseHead(model, self._loss_function, required=wanted is True)

    def make_routed(self, model: LanguageAdapterModel) -> None:
        """Evaluate several languages in one forward pass, as far as the arguments want it.

        Raises:
            ConfigurationError: If method or options do not allow it.
        """
        if self._args.languages_per_pass > 1:
            if self._takes_meta:
                check_groups(self.check.options)
            if self._args.torch_compile:
                raise ConfigurationError(
                    "`torch_compile` would compile each layer anew for every division of the rows."
                    f" Found `languages_per_pass={self._args.languages_per_pass}`. Write one of the"
                    " two."
                )
            self._loss_function = RoutedLoss(model, self._loss_function)

    def __call__(
        self,
        model: LanguageAdapterModel,
        batches: StepBatches,
        *,
        optimizer: Any,
        accelerator: Any,
        step: int,
    ) -> Gradients | None:
        """Compute the gradients and assign them; with alternating updates, φ has then been updated already.

        Args:
            model: The model, without wrappers for data parallelism, which know nothing of gradients
                of gradients.
            batches: role → language → micro-batches.
            optimizer: The optimizer of θ and φ.
            accelerator: That of the Trainer.
            step: The number of optimizer steps taken.

        Returns:
            The gradients; `None` where something was not finite and the step is skipped: θ, φ and
            what the optimizer knows of them are as they were, and no parameter has a gradient.

        Raises:
            NonFiniteLossError: Before an update with anything that is not finite, if no such step
                may be skipped.
        """
        left = self._args.skip_nonfinite_steps - self._progress.nonfinite_steps
        undo = None
        if left > 0 and self._args.update_order == "alternating":
            undo = Undo(
                (p for key in batches["train"] for p in model.language_parameters(key).values()),
                optimizer,
            )
        scaler = getattr(accelerator, "scaler", None)  # of fp16 training
        try:
            gradients = self._gradients(model, batches, optimizer, accelerator, step)
        except NonFiniteLossError as error:
            if (
                scaler is not None and error.overflow and scaler.get_scale() > 1
            ):  # too large a scale, which now falls
                self._progress.overflow_steps += 1
                skip_step(model, scaler)
                return None
            if left <= 0:
                raise
            if undo is not None:
                undo()
            self._progress.nonfinite_steps += 1
            skip_step(model, scaler)
            warnings.warn(
                f"Step {step + 1} is skipped; {left - 1} more may be. {error}", stacklevel=2
            )
            return None
        # the optimizer will divide the scale out
        apply_gradients(
            model, gradients, self._args.adapter_update or "", self._loss_scale(accelerator)
        )
        self._log.add(gradients)
        return gradients

    def _gradients(
        self,
        model: LanguageAdapterModel,
        batches: StepBatches,
        optimizer: Any,
        accelerator: Any,
        step: int,
    ) -> Gradients:
        """The gradients of θ, and of φ unless it has been updated; checked."""
        takes_meta = self._takes_meta and step % self._args.meta_every == 0
        if takes_meta:
            given = self._virtual_step(optimizer) | self._context(accelerator)
            self._log.add_value("meta_fidelity", self.check(model, batches, step, **given))
        if takes_meta and self._args.update_order == "simultaneous":
            gradients: Gradients = self._meta(model, batches, optimizer, accelerator, step)
        else:
            if takes_meta:
                self._update_adapters(model, batches, optimizer, accelerator, step)
            gradients = joint_step(
                model,
                batches["train"],
                languages_per_pass=self._args.languages_per_pass,
                **self._context(accelerator),
            )
        check_finite(gradients, step, self._args.output_dir)
        return gradients

    def _update_adapters(
        self,
        model: LanguageAdapterModel,
        batches: StepBatches,
        optimizer: Any,
        accelerator: Any,
        step: int,
    ) -> None:
        """The first half of Algorithm 1: update φ by the meta-gradient; the training gradient is taken with the new φ.

        With a look-ahead per language each φ_i is updated before the next one's gradient is taken,
        as in the paper.
        """
        each = self.check.options.lookahead == "per_language"
        for keys in [[key] for key in batches["train"]] if each else [list(batches["train"])]:
            gradients = self._meta(model, batches, optimizer, accelerator, step, keys)
            check_finite(gradients, step, self._args.output_dir)
            self._log.add(gradients, losses=False)
            apply_gradients(model, gradients, "meta", shared=False)
            if (self._args.max_grad_norm or 0) > 0:
                own = [p for key in keys for p in model.language_parameters(key).values()]
                accelerator.clip_grad_norm_(own, self._args.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()

    def _meta(
        self,
        model: LanguageAdapterModel,
        batches: StepBatches,
        optimizer: Any,
        accelerator: Any,
        step: int,
        keys: list[Language] | None = None,
    ) -> MetaGradients:
        return meta_step(
            model,
            batches["train"],
            batches["meta"],
            for_languages=keys,
            seed=(self._args.seed << 32) + step,
            train_gradients="train" in (self._args.adapter_update or ""),
            languages_per_pass=(
                1
                if self.check.options.lookahead == "per_language"
                else self._args.languages_per_pass
            ),
            **self._virtual_step(optimizer),
            **self._context(accelerator),
            **vars(self.check.options),
        )

    def _virtual_step(self, optimizer: Any) -> dict[str, Any]:
        """The size and the rule of the virtual step."""
        rate = self._args.inner_learning_rate
        return {
            "inner_learning_rate": optimizer.param_groups[0]["lr"] if rate is None else rate,
            "inner_optimizer": self._args.inner_optimizer or "sgd",
            "optimizer": getattr(optimizer, "optimizer", optimizer),
        }

    def _context(self, accelerator: Any) -> dict[str, Any]:
        """How losses are evaluated and summed."""
        several = self._args.world_size > 1
        return {
            "loss_function": self._loss_function,
            "autocast": accelerator.autocast,
            "all_reduce": torch.distributed.all_reduce if several else None,
            "loss_scale": self._loss_scale(accelerator),
        }

    def _loss_scale(self, accelerator: Any) -> Tensor | None:
        """The scale of fp16 training, on the device."""
        scaler = getattr(accelerator, "scaler", None)
        return None if scaler is None else scaler.scale(torch.ones((), device=self._args.device))


def mean_loss(gradients: Gradients | None) -> Tensor:
    """The mean training loss of the step's languages, 0-d; NaN of a step that was skipped."""
    if gradients is None:
        return torch.tensor(float("nan"))
    return torch.stack(list(gradients.train_loss.values())).mean()
