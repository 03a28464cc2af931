"""How many languages share a forward pass in a Trainer: given, or chosen from free memory."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from hf_meta_adapters.errors import CheckpointError, ConfigurationError, DataError
from hf_meta_adapters.meta.weightings import METHODS
from hf_meta_adapters.steps.language_groups import check_groups
from hf_meta_adapters.steps.losses import LossFunction
from hf_meta_adapters.steps.routed_loss import RoutedLoss
from hf_meta_adapters.training._device_memory import (
    has_readable_memory,
    read_memory,
    restart_peak,
)
from hf_meta_adapters.training._pass_arguments import AUTO, first_size
from hf_meta_adapters.training._pass_memory import PassMemory
from hf_meta_adapters.training._step_at_hand import StepAtHand
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

SIZE_FILE = "languages_per_pass.json"
_LOGGER = logging.getLogger(__name__)

_STEPS = 3
"""Steps with a meta-gradient that are measured. The first step of a run is none of them: the
optimizer has no states yet.
"""


class PassSize:
    """The number of languages in a pass, one step after the other.

    Args:
        args: The arguments.
        loss_function: Evaluates a batch; a `RoutedLoss` where languages may share a pass.
        takes_meta: Whether φ is updated by meta-gradients.
    """

    def __init__(
        self,
        args: MetaAdapterTrainingArguments,
        loss_function: LossFunction,
        *,
        takes_meta: bool,
    ) -> None:
        self.size = first_size(args.languages_per_pass)
        """How many languages share a pass."""
        self._args = args
        self._loss_function = loss_function
        self._meta_every = args.meta_every if takes_meta else 1
        self._memory: PassMemory | None = None
        self._chooses = args.languages_per_pass == AUTO
        if self._chooses and isinstance(loss_function, RoutedLoss):
            self._memory = PassMemory()

    @contextmanager
    def measured(self, step: StepAtHand) -> Iterator[None]:
        """A context in which a step is taken; after some of them the number is chosen.

        Args:
            step: The step at hand.
        """
        memory, device = self._memory, self._args.device
        between = step.number % self._meta_every
        if memory is None or memory.count >= _STEPS or step.number == 0 or between:
            yield
            return

        before = read_memory(device).taken
        restart_peak(device)
        yield
        now = read_memory(device)
        memory.observe(before, now.peak)
        if memory.count == _STEPS:
            self._choose(memory.fitting(now.capacity), step)

    def logs(self) -> dict[str, float]:
        """The number, under its name in the log, where it is chosen."""
        return {"languages_per_pass": self.size} if self._chooses else {}

    def save(self, folder: Path) -> None:
        """Write what the next steps depend on to a checkpoint; it is the same on all processes."""
        if self._memory is not None:
            state = {"size": self.size, **self._memory.state()}
            (folder / SIZE_FILE).write_text(json.dumps(state), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take over what a checkpoint holds; nothing, where the number was given before.

        Args:
            folder: The folder of the checkpoint.

        Raises:
            CheckpointError: If it holds something else.
        """
        path = folder / SIZE_FILE
        if self._memory is None or not path.is_file():
            return

        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            self._memory.load_state(state)
            self.size = max(int(state["size"]), 1)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                '`languages_per_pass="auto"` goes on with the number that was chosen before. Found'
                f" none in {path}: {error!r}. Resume from an earlier checkpoint, or start a new run"
                " from its weights: `model.load_weights(...)`."
            ) from error

    def _choose(self, fitting: int, step: StepAtHand) -> None:
        # All processes take the same passes: what fits on the smallest device.
        size = self._least(min(fitting, len(step.model.languages)))
        if size > 1:
            size = self._least(size if _is_routable(self._loss_function, step) else 1)

        self.size = size
        _LOGGER.info("From step %d on, %d languages share a pass.", step.number + 2, size)

    def _least(self, size: int) -> int:
        """The least number of all processes."""
        if self._args.world_size == 1:
            return size

        least = torch.tensor(size, device=self._args.device)
        torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
        return int(least)


def reason_for_one(
    args: MetaAdapterTrainingArguments, *, routes_rows: bool, takes_meta: bool
) -> str | None:
    """Why each language keeps passes of its own, where the number is to be chosen.

    Args:
        args: The arguments.
        routes_rows: Whether the model can put rows of several languages into one pass.
        takes_meta: Whether φ is updated by meta-gradients.

    Returns:
        The reason; `None` where the number can be chosen.
    """
    try:
        if takes_meta:
            check_groups(args.meta_options())
    except ConfigurationError as error:
        return str(error)

    weighs = args.language_weights != "uniform" or args.shared_update in METHODS
    for reason, holds in (
        ("only a CUDA device says what is free", not has_readable_memory(args.device)),
        ("the method cannot route rows", not routes_rows),
        ("layers are compiled", args.torch_compile),
        ("`mixed_rows` takes a sample of each language", takes_meta and args.mixed_rows == AUTO),
        ("the gradients of single languages are weighed", weighs),
    ):
        if holds:
            return reason
    return None


def _is_routable(loss_function: LossFunction, step: StepAtHand) -> bool:
    """Whether the loss can be taken of several languages at once, as their first pass checks."""
    if not isinstance(loss_function, RoutedLoss):
        return False

    first = {key: several[0] for key, several in step.batches["train"].items()}
    try:
        with step.accelerator.autocast():
            loss_function.together(step.model, first)
    except (ConfigurationError, DataError) as error:
        _LOGGER.info("Each language keeps passes of its own: %s", error)
        return False
    return True
