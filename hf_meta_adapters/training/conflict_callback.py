"""Gradient conflict during training: a callback for any `transformers.Trainer`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.diagnostics import ConflictMatrix, gradient_conflict, plot_conflict_over_time
from hf_meta_adapters.errors import ConfigurationError, DataError, NonFiniteLossError
from hf_meta_adapters.training._conflict_log import log_entries
from hf_meta_adapters.training._draw_batches import Draw, Source, draw_batches
from hf_meta_adapters.training._split_batches import split_batches

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

__all__ = ["GradientConflictCallback"]

_STEPS_PER_BATCH = 25  # a probe batch costs about as much as a training step: at most 4 % of them

Batches: TypeAlias = Mapping[Language, Batch | Iterable[Batch]] | Iterable[Batch]


class GradientConflictCallback(TrainerCallback):
    """Logs `⟨∇L_i, ∇L_j⟩ / (‖∇L_i‖ ‖∇L_j‖)`, the cosines between gradients of languages.

    `gradient_conflict` on the same probe batches every k training steps, for any
    `transformers.Trainer`: `MetaAdapterTrainer`, or another one whose training data names the
    language of each row. The log gets `gradient_cosine_en_sw` for each pair,
    `gradient_cosine_en_en` between independent batches of one language (what all others have to be
    compared with), `gradient_cosine_lowest`, and in words the pair, and the pair and layer, that
    conflict most (`most_conflicting`, `most_conflicting_layer`). The training run is bitwise the
    one without the callback: weights, `.grad`, optimizer, random numbers, the order of the data.

    A callback cannot reach the Trainer that calls it. `MetaAdapterTrainer` introduces itself; to
    another Trainer, add the callback with `trainer=`, so that its reporters (`report_to`) and its
    other callbacks receive the log as well:

        trainer.add_callback(GradientConflictCallback(trainer=trainer))

    Without it, the measurements are in `history` and in `trainer.state.log_history` only.

    Args:
        batches: language → batches, or a list of batches whose rows carry a language in
            `language_column`. By default they are drawn from the Trainer's training data.
        every: Steps between two measurements; the first is before training and the last after it.
            By default 25 for each probe batch, so that they cost a few percent of the passes of
            training.
        dataset: Where to draw from instead of the Trainer's training data: language → data, or data
            with the column. Needed where the Trainer drops that column
            (`remove_unused_columns=True` and a `datasets.Dataset`).
        language_column: Column of the data, or entry of a batch, with the languages of the rows:
            keys or numbers. The model is called without it, unless it has an argument of that name.
        languages: The names of the languages that numbers stand for, from 0.
        number_of_batches: Batches to draw per language; at least two for the comparison within a
            language.
        batch_size: Rows of a batch that is drawn; by default the Trainer's, per device.
        parameters: As in `gradient_conflict`: a regular expression, or names.
        loss_function: Called as `loss_function(model, batch)`, with all that is in the batch,
            instead of `model(**batch)`. Needed where the Trainer computes its loss otherwise.
        projection: Dimensions of a random projection of the gradients of each part of the model;
            `None` keeps them whole.
        seed: Seed of the choice of rows, of the projection and of the bootstrap.
        trainer: The Trainer whose reporters and callbacks receive the log.

    Raises:
        ConfigurationError: If a number cannot work.

    Attributes:
        history: Training step → `ConflictMatrix`, with its layers and intervals.
        trainer: The Trainer whose reporters and callbacks receive the log.

    Example:
        >>> callback = GradientConflictCallback(every=100)
        >>> callback.history  # step → ConflictMatrix, after `trainer.train()` with the callback
        {}
    """

    def __init__(
        self,
        batches: Batches | None = None,
        *,
        every: int | None = None,
        dataset: Source | None = None,
        language_column: str = "language",
        languages: Sequence[Language] | None = None,
        number_of_batches: int = 4,
        batch_size: int | None = None,
        parameters: str | Iterable[str] | None = None,
        loss_function: Callable[[nn.Module, Batch], Tensor] | None = None,
        projection: int | None = 4096,
        seed: int = 0,
        trainer: Trainer | None = None,
    ) -> None:
        counts = {
            "every": every,
            "number_of_batches": number_of_batches,
            "batch_size": batch_size,
        }
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ConfigurationError(
                    f"`{name}` must be at least 1. Found {count}. Leave it out for the default."
                )

        self.history: dict[int, ConflictMatrix] = {}
        self.trainer = trainer
        self._batches = batches
        self._every = every
        self._dataset = dataset
        self._column = language_column
        self._languages = languages
        self._number_of_batches = number_of_batches
        self._batch_size = batch_size
        self._parameters = parameters
        self._loss_function = loss_function
        self._projection = projection
        self._seed = seed
        self._probes: dict[Language, list[Batch]] = {}

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        train_dataloader: DataLoader[Batch],
        **_: object,
    ) -> None:
        """Gather the probe batches, and measure the model before training."""
        if self.trainer is None and args.report_to:
            warnings.warn(
                f"The gradient conflict will not be reported to {args.report_to}: the callback"
                " does not know its Trainer. Add it with"
                " `trainer.add_callback(GradientConflictCallback(..., trainer=trainer))`.",
                stacklevel=2,
            )

        self._probes = self._gather(args, model, train_dataloader)

        # A resumed run keeps what was measured before its step; a new one starts without history.
        earlier = {step: found for step, found in self.history.items() if step < state.global_step}
        self.history = earlier

        # Known only now, as it depends on how many batches there are.
        if self._every is None:
            self._every = _STEPS_PER_BATCH * sum(map(len, self._probes.values()))
        self._measure(args, state, control, model)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        **_: object,
    ) -> None:
        """Measure every k steps."""
        if self._every is not None and state.global_step % self._every == 0:
            self._measure(args, state, control, model)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        **_: object,
    ) -> None:
        """Measure the trained model."""
        if state.global_step not in self.history:
            self._measure(args, state, control, model)

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the cosines over the training steps, see `plot_conflict_over_time`.

        Args:
            path: Where to save the picture; its suffix names the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
        return plot_conflict_over_time(self.history, path, ax)

    def _gather(
        self, args: TrainingArguments, model: nn.Module, loader: DataLoader[Batch]
    ) -> dict[Language, list[Batch]]:
        """The probe batches of each language, as the model takes them."""
        if self._batches is None:
            probes = draw_batches(loader, self._dataset, self._draw(args))
        else:
            probes = self._read_batches(self._batches)
            self._batches = probes  # an iterator is read once, but a Trainer may train twice

        if len(probes) < 2:
            raise DataError(
                "A conflict needs the batches of at least two languages. Found"
                f" {sorted(probes)}. Check the column {self._column!r}, or pass `batches` of each"
                " language."
            )

        if self._takes_language(model):
            return probes

        without_language = {}
        for language, batches in probes.items():
            without_language[language] = [self._without_language(batch) for batch in batches]

        return without_language

    def _draw(self, args: TrainingArguments) -> Draw:
        return Draw(
            self._column,
            self._languages,
            self._number_of_batches,
            self._batch_size or args.per_device_train_batch_size,
            self._seed,
        )

    def _read_batches(self, batches: Batches) -> dict[Language, list[Batch]]:
        if not isinstance(batches, Mapping):
            return split_batches(batches, self._column, self._languages)

        by_language: dict[Language, list[Batch]] = {}
        for language, entry in batches.items():
            if isinstance(entry, Mapping):
                by_language[language] = [entry]
            else:
                by_language[language] = list(entry)

        return by_language

    def _takes_language(self, model: nn.Module) -> bool:
        if self._loss_function is not None:
            return True

        # A model with languages takes `language=` as well, but `gradient_conflict` sets it.
        has_languages = hasattr(model, "use_language")
        return not has_languages and self._column in inspect.signature(model.forward).parameters

    def _without_language(self, batch: Batch) -> Batch:
        return {name: value for name, value in batch.items() if name != self._column}

    def _measure(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
    ) -> None:
        try:
            conflict = gradient_conflict(
                model,
                self._probes,
                per_layer=True,
                loss_function=self._loss_function,
                parameters=self._parameters,
                projection=self._projection,
                seed=self._seed,
            )
        except NonFiniteLossError as error:
            # Whether the run continues is not for a diagnostic to decide.
            warnings.warn(
                f"No gradient conflict after step {state.global_step}. {error}", stacklevel=2
            )
            return

        self.history[state.global_step] = conflict

        # The entries that `Trainer.log` would add.
        logs = log_entries(conflict)
        if state.epoch is not None:
            logs["epoch"] = state.epoch
        state.log_history.append({**logs, "step": state.global_step})

        if self.trainer is not None:
            # Not `trainer.log`, whose `on_log` takes back that the losses of this very step are to
            # be logged (`control.should_log`).
            handler = self.trainer.callback_handler
            handler.call_event("on_log", args, state, control, logs=logs)
