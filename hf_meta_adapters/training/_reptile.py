"""Sequential Reptile in the Trainer: optimizer steps in one language each, and an outer update."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_meta_adapters.errors import CheckpointError, ConfigurationError
from hf_meta_adapters.meta.reptile import InnerLoop
from hf_meta_adapters.meta.vectors import whole
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.sharding import reshard, write_whole
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

_FILE = "reptile.safetensors"
_RATE = 0.1
"""η where none is given."""


class SequentialReptile(TrainerCallback):
    """Ends an inner loop after every `reptile_steps` steps of the optimizer, and with the last one.

    Everything within a loop is what the Trainer does anyway: the optimizer, whose state goes on
    over the loops, the schedule, accumulation, clipping, precision, the update of φ, and the sum
    over processes, after which all of them have the same θ.

    Args:
        args: The arguments.
        model: The model.
    """

    def __init__(self, args: MetaAdapterTrainingArguments, model: LanguageAdapterModel) -> None:
        self._steps = args.reptile_steps
        self._rate = _RATE if args.reptile_rate is None else args.reptile_rate
        self._is_writer = args.process_index == 0
        self._model = model
        self._loop: InnerLoop | None = None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Begin a loop, unless one has begun.

        Raises:
            CheckpointError: If the run was resumed within a loop whose beginning is not known.
        """
        if self._steps is None:
            return

        if state.global_step % self._steps == 0:
            self._begin()
        elif self._loop is None:
            raise CheckpointError(
                "A run that is resumed within a loop of `reptile_steps` needs the θ that the loop"
                f" began with. Found no `{_FILE}` in the checkpoint of step {state.global_step}."
                f" Resume from one whose step is a multiple of {self._steps}."
            )

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """End the loop where the step is its last one, or the last one of the run."""
        if self._steps is None or self._loop is None:
            return

        taken = state.global_step + 1  # the state counts the step when it is over
        if taken % self._steps == 0 or taken >= state.max_steps:
            reshard(self._model)
            self._loop.end(self._rate)
            self._loop = None

    def save(self, folder: Path) -> None:
        """Write θ as it was when the present loop began to a checkpoint; all processes call it."""
        if self._loop is None:
            return

        names = self._model.shared_parameters()
        start = {
            name: whole(tensor).contiguous()
            for name, tensor in zip(names, self._loop.start, strict=True)
        }
        if self._is_writer:
            save_file(start, folder / _FILE)

    def load(self, folder: Path) -> None:
        """Read it, if the checkpoint was written within a loop; all processes call it."""
        self._loop = None
        if self._steps is None or not (folder / _FILE).is_file():
            return

        saved = load_file(folder / _FILE)
        start = self._begin().start
        for name, tensor in zip(self._model.shared_parameters(), start, strict=True):
            write_whole(tensor, saved[name])

    def _begin(self) -> InnerLoop:
        # an evaluation may have left parameters gathered
        reshard(self._model)

        # here, not once and for all: FSDP2 puts others in the place of the parameters
        self._loop = InnerLoop(list(self._model.shared_parameters().values()))
        return self._loop


def check_reptile(
    model: LanguageAdapterModel, args: MetaAdapterTrainingArguments, optimizer: object
) -> None:
    """Refuse what makes no sense with inner loops; everything that was found in one message.

    Args:
        model: The model.
        args: The arguments.
        optimizer: The optimizer that was given, if one was.

    Raises:
        ConfigurationError: If there is anything.
    """
    if args.reptile_steps is None:
        if args.reptile_rate is None:
            return
        raise ConfigurationError(
            f"`reptile_rate` is the rate at the end of an inner loop. Found {args.reptile_rate}"
            " without `reptile_steps`. Set `reptile_steps`, the number of steps of a loop, or leave"
            " the rate out."
        )

    found = [*_wrong_steps(model, args, optimizer), *_within_loops(args, args.reptile_steps)]
    if found:
        raise ConfigurationError(
            "`reptile_steps` takes steps in one language after the other, and moves θ from the"
            f" beginning of each loop of {args.reptile_steps} steps. Found {'; '.join(found)}."
            " Change these, or leave `reptile_steps` out."
        )


def _wrong_steps(
    model: LanguageAdapterModel, args: MetaAdapterTrainingArguments, optimizer: object
) -> Iterator[str]:
    if args.languages_per_step != 1:
        yield (
            f"`languages_per_step={args.languages_per_step}` (set 1: a step in several languages"
            " has no order)"
        )

    if args.shared_update != "mean":
        yield (
            f'`shared_update="{args.shared_update}"` (leave it out: there is one gradient in a step'
            " and nothing to combine)"
        )

    has_adapters = any(model.language_parameters(key) for key in model.languages)
    if has_adapters and args.adapter_update != "train":
        yield (
            f'`adapter_update="{args.adapter_update}"` (set "train": a meta-gradient has a virtual'
            " step of its own)"
        )

    if not model.shared_parameters():
        yield "a model without a trained θ (there is nothing to update)"

    kinds = (str(args.optim).lower(), type(optimizer).__name__.lower())
    if any("schedule_free" in kind or "schedulefree" in kind for kind in kinds):
        yield "a schedule-free optimizer (it keeps a θ of its own, which no loop moves)"


def _within_loops(args: MetaAdapterTrainingArguments, steps: int) -> Iterator[str]:
    """Evaluations and saves between the ends of loops, where θ is at no step of the method."""
    for what in ("eval", "save"):
        given = vars(args)
        strategy, every = str(given[f"{what}_strategy"].value), given[f"{what}_steps"]

        if strategy == "epoch":
            yield (
                f'`{what}_strategy="epoch"` (epochs end within loops: set "steps", with'
                f" `{what}_steps={steps}` or a multiple)"
            )
        elif strategy == "steps" and every % steps != 0:
            yield f"`{what}_steps={every}` (set {steps} or a multiple)"
