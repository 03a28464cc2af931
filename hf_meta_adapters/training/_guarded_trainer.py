"""A Trainer that checks its weights, and obeys a request to stop, at the end of a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, TrainOutput

from hf_meta_adapters._typing import Batch
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.training._checkpoint_writer import record_callbacks
from hf_meta_adapters.training._language_trainer import LanguageTrainer
from hf_meta_adapters.training._termination import Termination
from hf_meta_adapters.training._weight_check import check_trained
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments


class GuardedTrainer(LanguageTrainer):
    """Stops where weights are not finite any more, and, with a checkpoint, on SIGTERM.

    Args:
        model: The model.
        args: The arguments.
        **given: As in `LanguageTrainer`.
    """

    def __init__(
        self, model: LanguageAdapterModel, args: MetaAdapterTrainingArguments, **given: Any
    ) -> None:
        self._termination = Termination(args)
        self._stopped_at: int | None = None  # the step after which a request was obeyed
        self._evaluation_due = False  # left to the run that resumes
        self._due_from: str | None = None  # the checkpoint whose step is to be evaluated
        self._is_ending = False

        with self._termination.replacing_callback():
            super().__init__(model, args, **given)

    def _inner_training_loop(
        self, batch_size: int | None = None, *args: object, **kwargs: object
    ) -> TrainOutput:
        limit = self.args.save_total_limit
        self._stopped_at, self._evaluation_due, self._due_from = None, False, None
        self._is_ending = True
        try:
            with self._termination.listening():
                return super()._inner_training_loop(batch_size, *args, **kwargs)
        finally:
            self.args.save_total_limit, self._is_ending = limit, False

    def log(self, logs: dict[str, float], *args: object, **kwargs: object) -> None:
        """Log, as in `transformers.Trainer`."""
        super().log(logs, *args, **kwargs)

        # After the last line of a run and under a limit of 1, transformers deletes the last
        # checkpoint where another one is the best. It stays: only from there can the run go on.
        if self._is_ending and "train_runtime" in logs:
            self.args.save_total_limit = None

    def get_eval_dataloader(self, *args: object, **kwargs: object) -> DataLoader[Batch]:
        """The loader of evaluation data, as in `transformers.Trainer`."""
        return self._spared(super().get_eval_dataloader(*args, **kwargs))

    def _spared(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        """The loader, with workers that SIGTERM does not end where it is a request."""
        self._termination.spare_workers(loader)
        return loader

    def get_batch_samples(self, *args: object, **kwargs: object) -> tuple[list[object], object]:
        """The micro-batches of the next step, as in `transformers.Trainer`; none after the last."""
        # From a checkpoint of the last step transformers would take one more.
        if self.state.global_step >= self.state.max_steps:
            return [], None

        samples: tuple[list[object], object] = super().get_batch_samples(*args, **kwargs)
        return samples

    def check_trained(self) -> None:
        """Stop on all processes if θ, a φ or their optimizer states are not finite.

        Raises:
            NonFiniteLossError: Naming the parameters, the languages and the step.
        """
        check_trained(self._model, self.optimizer, self.state.global_step, self.args)

    def _maybe_log_save_evaluate(self, *args: object, **kwargs: object) -> None:
        if self._termination.is_requested():
            self._obey()

        # Not in every step: the host would have to wait for the device.
        control = self.control
        if control.should_log or control.should_evaluate or control.should_training_stop:
            self.check_trained()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _determine_best_metric(self, *args: Any, **kwargs: Any) -> bool:
        is_best: bool = super()._determine_best_metric(*args, **kwargs)
        # transformers 4 leaves it out under `save_strategy="best"`, and then loads no best model.
        if is_best:
            self.state.best_global_step = self.state.global_step
        return is_best

    def _obey(self) -> None:
        """Make this the last step: with a checkpoint, and without an evaluation."""
        control = self.control
        is_told_again = self._stopped_at == self.state.global_step

        # Leaving an epoch in the middle, transformers ends it as if it were over.
        if is_told_again and self.state.epoch != int(self.state.epoch or 0):
            control.should_log = control.should_evaluate = control.should_save = False
        if is_told_again and not (control.should_log or control.should_evaluate):
            control.should_save = False
            return

        # An evaluation may take longer than the time that is left. The resumed run begins with it.
        self._evaluation_due = self._evaluation_due or control.should_evaluate
        control.should_evaluate = False
        control.should_save = control.should_training_stop = True
        self._stopped_at = self.state.global_step

    def _catch_up(self) -> None:
        """Take the evaluation that the run from before had to leave out, as it would have."""
        if self._due_from is None or self.args.eval_strategy == IntervalStrategy.NO:
            return

        # transformers sets them later, and from the checkpoint that is written again here.
        self._load_rng_state(self._due_from)

        self._due_from = None
        self.control.should_log = False
        self.control.should_evaluate = True
        # Again, with what the evaluation has found.
        self.control.should_save = self.args.save_strategy != SaveStrategy.BEST
        nothing = torch.zeros((), device=self.args.device)
        super()._maybe_log_save_evaluate(
            nothing, None, self.model, None, self.state.epoch, None, 0.0
        )

    def _write_model(self, folder: Path) -> None:
        self.save_model(str(folder), _internal_call=True)

    def _write_run(self, folder: Path) -> None:
        """Write what a resumed run needs besides the model."""
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))

        # They are part of `trainer_state.json`, which the writer saves last.
        if self.args.should_save:
            record_callbacks(self.state, [*self.callback_handler.callbacks, self.control])
