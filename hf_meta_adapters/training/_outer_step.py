"""What an optimizer step of the Trainer computes, in the order that the arguments say."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data.key import Role
from hf_meta_adapters.errors import NonFiniteLossError
from hf_meta_adapters.meta import MetaGradients
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.compared_meta_step import compared_meta_step
from hf_meta_adapters.steps.joint_step import joint_step
from hf_meta_adapters.steps.losses import LossFunction
from hf_meta_adapters.steps.meta_step import meta_step
from hf_meta_adapters.training._adapter_snapshot import AdapterSnapshot
from hf_meta_adapters.training._apply_gradients import Gradients, apply_gradients, skip_step
from hf_meta_adapters.training._finite_check import check_finite
from hf_meta_adapters.training._language_weighting import LanguageWeighting
from hf_meta_adapters.training._loss_choice import choose_loss
from hf_meta_adapters.training._next_step import NextStep
from hf_meta_adapters.training._optimizer_groups import adapter_parameters, unwrapped
from hf_meta_adapters.training._pass_size import PassSize
from hf_meta_adapters.training._progress import Progress
from hf_meta_adapters.training._sampled_rows import SampledRows
from hf_meta_adapters.training._self_check import SelfCheck
from hf_meta_adapters.training._step_at_hand import (
    Evaluation,
    MetaStepArguments,
    StepAtHand,
    VirtualStep,
)
from hf_meta_adapters.training._step_log import StepLog
from hf_meta_adapters.training._surgery_state import read_surgery, surgery_of, write_surgery
from hf_meta_adapters.training._weight_arguments import learned_weights
from hf_meta_adapters.training._weight_check import check_trained
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments


class OuterStep:
    """Takes the outer step of Algorithm 1, or of joint training; gradients end up in `.grad`.

    Args:
        args: The arguments.
        model: The model.
        loss_function: Evaluates a batch.
        takes_meta: Whether φ is updated by meta-gradients.
        log: Where losses and the meter go.
        progress: Where skipped steps are counted.
        sharded: Whether parameters are divided among processes (FSDP2).
    """

    def __init__(
        self,
        args: MetaAdapterTrainingArguments,
        model: LanguageAdapterModel,
        loss_function: LossFunction,
        *,
        takes_meta: bool,
        log: StepLog,
        progress: Progress,
        sharded: bool,
    ) -> None:
        self._args = args
        self._loss_function = choose_loss(args, model, loss_function, takes_meta=takes_meta)
        self._takes_meta = takes_meta
        self._log = log
        self._progress = progress
        self.check = SelfCheck(
            args.meta_options(), args.fidelity_check_steps, args.min_fidelity, sharded=sharded
        )
        """Which setting of the meta-gradient is in use."""
        self._rows = SampledRows(args, takes_meta=takes_meta)
        self._passes = PassSize(args, self._loss_function, takes_meta=takes_meta)
        self.next_step = NextStep(args, self._rows, self._passes, sharded=sharded)
        """Takes the steps of `lookahead="next"`."""
        self.surgery = surgery_of(model, args)
        """What weighs the gradients of θ, where it is not updated by their mean."""
        learned = learned_weights(
            model,
            args.language_weights,
            args.language_weights_rate,
            takes_meta=takes_meta,
            sharded=sharded,
        )
        self._weighting = LanguageWeighting(learned)

    def __call__(self, step: StepAtHand) -> Tensor:
        """Compute the gradients and assign them; alternating updates have moved φ by then.

        Args:
            step: The step at hand.

        Returns:
            The mean training loss over the step's languages that have a label, 0-d. NaN where none
            has, or where something was not finite and the step is skipped: θ, φ and the state of
            the optimizer are then those from before, and no parameter has a gradient.

        Raises:
            NonFiniteLossError: Before an update with anything that is not finite, if no such step
                may be skipped.
        """
        # Alternating updates move φ halfway through; skipping the step means taking that back.
        before = None
        if self._skippable > 0 and self._args.update_order == "alternating":
            adapters = adapter_parameters(step.model, step.languages)
            before = AdapterSnapshot(adapters, unwrapped(step.optimizer))

        try:
            with self._passes.measured(step):
                gradients = self._gradients(step)
        except NonFiniteLossError as error:
            self._skip(step, error, before)
            return torch.tensor(float("nan"))

        # The optimizer will divide the scale out.
        apply_gradients(step.model, gradients, self._args.adapter_update, self._loss_scale(step))
        if all(parameter.grad is None for parameter in step.model.parameters()):
            skip_step(step.model, step.scaler)

        for name, weight in self._weighting.logs(gradients).items():
            self._log.add_value(name, weight)
        self._weighting.learn(gradients)
        chosen = self._rows.learn(self._evaluation(step)["all_reduce"]) | self._passes.logs()
        for name, value in chosen.items():
            self._log.add_value(name, value)
        self._log.add(gradients)
        self._count_labels(step, gradients, "train")
        losses = list(gradients.train_loss.values())
        return torch.stack(losses).mean() if losses else torch.tensor(float("nan"))

    def save(self, folder: Path) -> None:
        """Write what the next step depends on to a checkpoint."""
        self.next_step.save(folder)
        if self._args.process_index == 0:
            self._weighting.save(folder)
            self._rows.save(folder)
            self._passes.save(folder)
            if self.surgery is not None:
                write_surgery(folder, self.surgery)

    def load(self, folder: Path) -> None:
        """Read what a checkpoint has for the next step."""
        self.next_step.load(folder)
        self._weighting.load(folder, self._args.device)
        self._rows.load(folder)
        self._passes.load(folder)
        if self.surgery is not None:
            read_surgery(folder, self.surgery)

    @property
    def _skippable(self) -> int:
        """How many steps with something that is not finite may still be skipped."""
        return self._args.skip_nonfinite_steps - self._progress.nonfinite_steps

    def _skip(
        self, step: StepAtHand, error: NonFiniteLossError, before: AdapterSnapshot | None
    ) -> None:
        """Skip the step at hand, or raise the error where no step may be skipped."""
        self._weighting.forget()
        self._rows.forget()
        if _is_overflow(step, error):
            # Not a fault of the run: the scaler sees an infinite gradient and lowers its scale.
            self.next_step.forget()
            self._progress.overflow_steps += 1
            skip_step(step.model, step.scaler)
            return

        # Weights that are not finite already are no fault of the data, and no skip helps.
        check_trained(step.model, step.optimizer, step.number, self._args)
        if self._skippable <= 0:
            raise error

        self.next_step.forget()
        if before is not None:
            before.restore()

        self._progress.nonfinite_steps += 1
        skip_step(step.model, step.scaler)
        warnings.warn(
            f"Step {step.number + 1} is skipped; {self._skippable} more may be. {error}",
            stacklevel=3,
        )

    def _gradients(self, step: StepAtHand) -> Gradients:
        """The gradients of θ, and of φ unless it has been updated; all of them finite."""
        if self._takes_meta and self._args.lookahead == "next":
            following = self.next_step(step, **self._evaluation(step))
            check_finite(following, step.number, self._args.output_dir)
            return following

        takes_meta = self._takes_meta and step.number % self._args.meta_every == 0

        # Before the gradients, so that a fall-back acts in this very step.
        if takes_meta:
            fidelity = self.check(
                step.model,
                step.batches,
                step.number,
                **self._virtual_step(step),
                **self._evaluation(step),
            )
            self._log.add_value("meta_fidelity", fidelity)

        # One pass serves θ and φ, or φ moves first and the training pass sees the new φ.
        if takes_meta and self._args.update_order == "simultaneous":
            gradients: Gradients = self._meta_gradients(step)
            self._weighting.note(gradients)
            self._count_labels(step, gradients, "meta")
        else:
            if takes_meta:
                self._update_adapters(step)
            gradients = joint_step(
                step.model,
                step.batches["train"],
                languages_per_pass=self._passes.size,
                surgery=self.surgery,
                step_weights=self._weighting.of_step(),
                **self._evaluation(step),
            )

        check_finite(gradients, step.number, self._args.output_dir)
        return gradients

    def _update_adapters(self, step: StepAtHand) -> None:
        """The first half of Algorithm 1: update φ by the meta-gradient.

        The training gradient that follows is taken with the new φ.
        """
        lacking: set[Language] = set()
        for languages in self._turns(step.languages):
            gradients = self._meta_gradients(step, languages)
            lacking.update(gradients.without_loss.get("meta", ()))
            check_finite(gradients, step.number, self._args.output_dir)
            self._log.add(gradients, losses=False)
            self._weighting.note(gradients)

            # Without `.grad`, θ is left alone by the optimizer: no step, no momentum, no decay.
            apply_gradients(step.model, gradients, "meta", shared=False)
            if not any(gradients.direct.values()) and not any(gradients.indirect.values()):
                continue  # no language has a label, and a loss scaler refuses a step of nothing

            max_norm = self._args.max_grad_norm
            if max_norm is not None and max_norm > 0:
                adapters = adapter_parameters(step.model, languages)
                step.accelerator.clip_grad_norm_(adapters, max_norm)

            step.optimizer.step()
            step.optimizer.zero_grad()

        self._progress.add_labels("meta", step.languages, lacking)

    def _count_labels(self, step: StepAtHand, gradients: Gradients, role: Role) -> None:
        without = gradients.without_loss.get(role, ())
        self._progress.add_labels(role, step.batches[role], without)

    def _turns(self, languages: list[Language]) -> list[list[Language]]:
        """The languages whose φ are updated together, one group after the other.

        With a look-ahead per language each φ_i is updated before the gradient of the next one is
        taken, as in the paper.
        """
        if self.check.options.lookahead == "per_language":
            return [[language] for language in languages]
        return [languages]

    def _meta_gradients(
        self, step: StepAtHand, languages: Sequence[Language] | None = None
    ) -> MetaGradients:
        """The meta-gradients of some languages, by default of all of the step."""
        options = self.check.options

        # A fall-back may have brought a look-ahead per language, which needs passes per language.
        languages_per_pass = self._passes.size
        if options.lookahead == "per_language":
            languages_per_pass = 1

        # θ takes its step with φ, or in a joint step after it.
        surgery = self.surgery if languages is None else None
        given: MetaStepArguments = {
            "for_languages": languages,
            "train_gradients": "train" in self._args.adapter_update,
            "seed": step.drawing_seed(self._args.seed),
            "surgery": surgery,
            "step_weights": self._weighting.of_step(compared=languages is None),
            **self._virtual_step(step),
            **self._evaluation(step),
        }
        batches = step.batches["train"], step.batches["meta"]

        if self._rows.is_due(step.number):
            compared = asdict(replace(options, mixed_rows=self._rows.candidate))
            gradients, agreement = compared_meta_step(step.model, *batches, **given, **compared)
            self._rows.note(agreement)
            return gradients

        options = replace(options, mixed_rows=self._rows.share)
        return meta_step(
            step.model,
            *batches,
            languages_per_pass=languages_per_pass,
            **given,
            **asdict(options),
        )

    def _virtual_step(self, step: StepAtHand) -> VirtualStep:
        rate = self._args.inner_learning_rate
        if rate is None:
            rate = step.optimizer.param_groups[0]["lr"]  # of θ, as the schedule has it now

        return {
            "inner_learning_rate": rate,
            "inner_optimizer": self._args.inner_optimizer,
            "optimizer": unwrapped(step.optimizer),
        }

    def _evaluation(self, step: StepAtHand) -> Evaluation:
        # DDP sums gradients in hooks of one backward pass. A step here has several, at several θ:
        # it sums what it computes itself.
        all_reduce = None
        if self._args.world_size > 1:
            all_reduce = torch.distributed.all_reduce

        return {
            "loss_function": self._loss_function,
            "autocast": step.accelerator.autocast,
            "all_reduce": all_reduce,
            "loss_scale": self._loss_scale(step),
        }

    def _loss_scale(self, step: StepAtHand) -> Tensor | None:
        """The scale of fp16 training, on the device."""
        if step.scaler is None:
            return None
        return step.scaler.scale(torch.ones((), device=self._args.device))


def _is_overflow(step: StepAtHand, error: NonFiniteLossError) -> bool:
    """Whether fp16 overflowed under a loss scale that can still be lowered."""
    return step.scaler is not None and error.overflow and step.scaler.get_scale() > 1
