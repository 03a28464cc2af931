"""Diagnostics beside training: a callback for any `transformers.Trainer`."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.diagnostics import ConflictMatrix, gradient_conflict, plot_conflict_over_time
from hf_meta_adapters.errors import ConfigurationError, DataError, NonFiniteLossError
from hf_meta_adapters.training._probe_batches import draw_batches, split_batches

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

__all__ = ["GradientConflictCallback"]

_STEPS_PER_BATCH = 25  # a probe batch costs about as much as a training step: at most 4 % of them
_MOST_PAIRS = 28  # of 8 languages; of more only mean and lowest are logged


class GradientConflictCallback(TrainerCallback):
    """Logs the cosines `⟨∇L_i, ∇L_j⟩ / (‖∇L_i‖ ‖∇L_j‖)` between the gradients of languages every k training steps.

    `gradient_conflict` on the same probe batches each time, for any `transformers.Trainer`:
    `MetaAdapterTrainer`, or another whose training data names the language of each row. Through the
    Trainer's log, so wherever `report_to` says, go `gradient_cosine_en_sw` for each pair,
    `gradient_cosine_en_en` between independent batches of one language (what all others have to be
    compared with), `gradient_cosine_lowest`, and in words the pair, and the pair and layer, that
    conflict most (`most_conflicting`, `most_conflicting_layer`). The training run is left bitwise
    as it would be without: weights, `.grad`, optimizer, random numbers, the order of the data.

    Args:
        batches: language → batches, or a list of batches whose rows carry a language in
            `language_column`. By default they are drawn from the Trainer's training data.
        every: Steps between two measurements; the first is before training and the last after it.
            By default 25 for each probe batch, so that they cost a few percent of the passes of
            training.
        dataset: Where to draw from in place of the Trainer's training data: language → data, or
            data with the column. Needed where the Trainer drops that column
            (`remove_unused_columns=True` and a `datasets.Dataset`).
        language_column: Column of the data, or entry of a batch, with the languages of the rows:
            keys or numbers. It is left out of what the model is called with, unless the model has
            an argument of that name.
        languages: The names of the languages that numbers stand for, from 0.
        number_of_batches: Batches to draw per language; two at least for the comparison within a
            language.
        batch_size: Rows in a batch that is drawn; by default the Trainer's, per device.
        parameters: As in `gradient_conflict`: a regular expression, or names.
        loss_function: Called as `loss_function(model, batch)`, with all that is in the batch, in
            place of `model(**batch)`. A Trainer with a loss of its own needs it.
        projection: Dimensions of a random projection of the gradients of each part of the model;
            `None` keeps them whole.
        seed: Seed of the choice of rows, of the projection and of the bootstrap.

    Raises:
        ConfigurationError: If a number cannot work.

    Attributes:
        history: Training step → `ConflictMatrix`, with its layers and intervals.

    Example:
        >>> callback = GradientConflictCallback(every=100)
        >>> callback.history  # after `trainer.add_callback(callback)` and `trainer.train()`: step → ConflictMatrix
        {}
    """

    def __init__(
        self,
        batches: Mapping[Language, Batch | Iterable[Batch]] | Iterable[Batch] | None = None,
        *,
        every: int | None = None,
        dataset: Any = None,
        language_column: str = "language",
        languages: Sequence[Language] | None = None,
        number_of_batches: int = 4,
        batch_size: int | None = None,
        parameters: str | Iterable[str] | None = None,
        loss_function: Any = None,
        projection: int | None = 4096,
        seed: int = 0,
    ) -> None:
        for name, number in (
            ("every", every),
            ("number_of_batches", number_of_batches),
            ("batch_size", batch_size),
        ):
            if number is not None and number < 1:
                raise ConfigurationError(
                    f"`{name}` must be at least 1. Found {number}. Leave it out for the default."
                )
        self.history: dict[int, ConflictMatrix] = {}
        self._given = batches
        self._every = every
        self._column, self._languages = language_column, languages
        self._source = dataset
        self._size = number_of_batches, batch_size
        self._loss_function, self._seed = loss_function, seed
        self._options: dict[str, Any] = {
            "parameters": parameters,
            "projection": projection,
            "seed": seed,
        }
        self._probes: dict[Language, list[Batch]] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Gather the probe batches, and measure the model as it is."""
        self._probes = self._gather(args, kwargs["model"], kwargs["train_dataloader"])
        # A run that is resumed goes on with what was measured before that step, another one starts
        # anew.
        self.history = {
            step: found for step, found in self.history.items() if step < state.global_step
        }
        if self._every is None:
            self._every = _STEPS_PER_BATCH * sum(map(len, self._probes.values()))
        self._measure(args, state, control, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure every k steps."""
        if self._every is not None and state.global_step % self._every == 0:
            self._measure(args, state, control, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the trained model."""
        if state.global_step not in self.history:
            self._measure(args, state, control, kwargs["model"])

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the cosines over the training steps, see `plot_conflict_over_time`.

        Args:
            path: Where to write the picture; its suffix names the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
        return plot_conflict_over_time(self.history, path, ax)

    def _gather(self, args: Any, model: nn.Module, loader: Any) -> dict[Language, list[Batch]]:
        if isinstance(self._given, Mapping):
            found = {
                k: [one] if isinstance(one, Mapping) else list(one)
                for k, one in self._given.items()
            }
            self._given = found  # an iterator is read once, but one may train twice
        elif self._given is not None:
            found = split_batches(self._given, self._column, self._languages)
            self._given = found
        else:
            found = draw_batches(
                loader,
                self._source,
                column=self._column,
                languages=self._languages,
                count=self._size[0],
                batch_size=self._size[1] or args.per_device_train_batch_size,
                seed=self._seed,
            )
        if len(found) < 2:
            raise DataError(
                f"A conflict needs the batches of at least two languages. Found {sorted(found)}."
                f" Check the column {self._column!r}, or give `batches` of each language."
            )
        return (
            found
            if self._keeps_language(model)
            else {k: [self._without(b) for b in v] for k, v in found.items()}
        )

    def _keeps_language(self, model: nn.Module) -> bool:
        if self._loss_function is not None:
            return True
        return (
            not hasattr(model, "use_language")
            and self._column in inspect.signature(model.forward).parameters
        )

    def _without(self, batch: Batch) -> Batch:
        return {name: value for name, value in batch.items() if name != self._column}

    def _measure(self, args: Any, state: Any, control: Any, model: nn.Module) -> None:
        try:
            conflict = gradient_conflict(
                model,
                self._probes,
                per_layer=True,
                loss_function=self._loss_function,
                **self._options,
            )
        except (
            NonFiniteLossError
        ) as error:  # whether the run goes on is not for a diagnostic to decide
            warnings.warn(
                f"No gradient conflict after step {state.global_step}. {error}", stacklevel=2
            )
            return
        self.history[state.global_step] = conflict
        logs = _logs(conflict)
        if state.epoch is not None:
            logs["epoch"] = state.epoch
        state.log_history.append({**logs, "step": state.global_step})
        if (handler := _calling_handler()) is not None:
            handler.call_event("on_log", args, state, control, logs=logs)


def _logs(conflict: ConflictMatrix) -> dict[str, Any]:
    """Return the entries of the log."""
    keys, matrix = conflict.languages, conflict.matrix
    within = conflict.baseline is not None
    logs: dict[str, Any] = {}
    if len(keys) * (len(keys) - 1) // 2 <= _MOST_PAIRS:
        for i, j in combinations_with_replacement(range(len(keys)), 2):
            if i != j or within:
                logs[f"gradient_cosine_{keys[i]}_{keys[j]}"] = float(matrix[i, j])
    logs["gradient_cosine_between_languages"] = conflict.between_languages
    logs["gradient_cosine_within_languages"] = conflict.within_languages
    worst, worst_layer = conflict.most_conflicting(), conflict.most_conflicting(per_layer=True)
    logs["gradient_cosine_lowest"] = worst.cosine
    logs["gradient_cosine_lowest_layer"] = worst_layer.cosine
    logs = {name: value for name, value in logs.items() if not math.isnan(value)}
    logs["most_conflicting"] = "–".join(worst.languages)
    logs["most_conflicting_layer"] = f"{'–'.join(worst_layer.languages)} in {worst_layer.layer}"
    return logs


def _calling_handler() -> CallbackHandler | None:
    """Return the handler that calls this callback: nothing that a callback is given leads to the other ones."""
    frame = inspect.currentframe()
    while frame is not None:
        if isinstance(found := frame.f_locals.get("self"), CallbackHandler):
            return found
        frame = frame.f_back
    return None
