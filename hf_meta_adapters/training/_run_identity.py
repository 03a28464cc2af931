"""The identity of a training run: begun or resumed with it, and recorded in every checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from weakref import ref

import torch
from transformers import TrainingArguments

from hf_meta_adapters.training._checkpoint_seal import Seal
from hf_meta_adapters.training._optimizer_groups import unwrapped
from hf_meta_adapters.training._resume import find_checkpoint
from hf_meta_adapters.training._resumed_rates import RateSettings, rate_settings, take_over_rates
from hf_meta_adapters.training._run_folder import RunFolder, of_run
from hf_meta_adapters.training._run_settings import RunParts
from hf_meta_adapters.training._run_state import check_run_state
from hf_meta_adapters.training._same_run import check_same_run
from hf_meta_adapters.training._start_together import on_all


class RunIdentity:
    """What makes a run the one that it is, and no other.

    Args:
        args: The arguments.
    """

    def __init__(self, args: TrainingArguments) -> None:
        self._args = args
        self._folder = RunFolder(args)
        self._settings: dict[str, object] | None = None
        self._parts: RunParts | None = None
        self._rates: RateSettings | None = None
        self._optimizer: Callable[[], torch.optim.Optimizer | None] = lambda: None

    @contextmanager
    def training(
        self, parts: RunParts, resume_from_checkpoint: str | bool | None
    ) -> Iterator[str | None]:
        """A context in which the run trains. All processes enter it together.

        Args:
            parts: What the run is made of.
            resume_from_checkpoint: As for `MetaAdapterTrainer.train`.

        Returns:
            The folder of the checkpoint to resume from, if there is one.

        Raises:
            CheckpointError: On all processes, if the run cannot go on from there, or if another one
                is writing to the folder.
        """
        saves = str(getattr(self._args.save_strategy, "value", self._args.save_strategy)) != "no"
        uses_folder = saves or bool(resume_from_checkpoint)

        with ExitStack() as contexts:
            # A run that neither reads nor writes checkpoints may share its folder.
            if uses_folder:
                contexts.enter_context(self._folder.held())

            # Now, while optimizer and data are as they were given.
            self._parts, self._settings = parts, None
            if uses_folder:
                self._settings = parts.settings()

            checkpoint: str | None = None
            if resume_from_checkpoint:
                place, seal = self._find(resume_from_checkpoint)
                self._folder.begin(of_run(seal), seal["step"])
                checkpoint = str(place)
            elif uses_folder:
                self._folder.begin(None)
            yield checkpoint

    def record(self) -> dict[str, object]:
        """The settings for the seal of a checkpoint."""
        # A callback may ask for a checkpoint where none was planned.
        if self._settings is None and self._parts is not None:
            self._settings = self._parts.settings()
        return {**(self._settings or {}), "run": self._folder.sign(), "rates": self._rates}

    def note_rates(self, optimizer: torch.optim.Optimizer, scheduler: object) -> None:
        """Note the settings of optimizer and schedule, which are about to be used."""
        rates = rate_settings(optimizer, scheduler)

        # A Trainer that trains again has a new schedule, but the same optimizer: what this was made
        # with is known, and some change their own settings.
        optimizer = unwrapped(optimizer)
        if self._rates is not None and self._optimizer() is optimizer:
            rates["groups"] = self._rates["groups"]
            rates["optimizer"] = self._rates["optimizer"]
        self._rates, self._optimizer = rates, ref(optimizer)

    @contextmanager
    def loading_optimizer(
        self, checkpoint: str, seal: Seal, optimizer: torch.optim.Optimizer, scheduler: object
    ) -> Iterator[None]:
        """A context in which the states are loaded; the settings of this run hold afterwards.

        Args:
            checkpoint: The folder.
            seal: What the checkpoint recorded.
            optimizer: The optimizer, as it was made for this run.
            scheduler: The schedule, likewise.

        Raises:
            CheckpointError: If a setting has changed that goes with the states.
        """
        wanted = self._rates or rate_settings(optimizer, scheduler)
        saved: RateSettings | None = seal["settings"].get("rates")  # type: ignore[assignment]
        if saved is not None:
            before, now = ({**each["optimizer"], **each["schedule"]} for each in (saved, wanted))
            both = before.keys() & now.keys()
            check_same_run(
                checkpoint,
                {name: before[name] for name in both},
                {name: now[name] for name in both},
            )

        yield
        take_over_rates(optimizer, scheduler, saved=saved, wanted=wanted, checkpoint=checkpoint)

    def _find(self, requested: str | bool) -> tuple[Path, Seal]:
        """Find the checkpoint on all processes, or raise on all of them."""
        parts, settings = self._parts, self._settings
        assert parts is not None
        assert settings is not None

        def find() -> tuple[Path, Seal]:
            found = find_checkpoint(self._folder, requested, parts, settings)
            check_run_state(found[0], {one.dtype for one in parts.model.parameters()})
            return found

        # It also waits for all, before the first process writes to the folder.
        return on_all(self._args, find)
