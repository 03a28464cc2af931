"""A Trainer that writes what its run needs to go on, and reads it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from transformers.trainer_utils import HubStrategy

from hf_meta_adapters._typing import JsonObject
from hf_meta_adapters.hub.checksums import compared_before
from hf_meta_adapters.hub.manifest import read_manifest
from hf_meta_adapters.hub.tokenizer import save_tokenizer
from hf_meta_adapters.steps.sharding import gathered
from hf_meta_adapters.training._checkpoint_seal import CheckpointRecord, read_record, read_seal
from hf_meta_adapters.training._checkpoint_writer import CheckpointWriter
from hf_meta_adapters.training._dataset_roles import MetaData
from hf_meta_adapters.training._first_states import add_first_states
from hf_meta_adapters.training._guarded_trainer import GuardedTrainer
from hf_meta_adapters.training._optimizer_groups import optimizer_settings, unwrapped
from hf_meta_adapters.training._outer_step import OuterStep
from hf_meta_adapters.training._progress import Progress
from hf_meta_adapters.training._publishing import (
    check_repository,
    publishing,
    push_checkpoint,
    write_card,
)
from hf_meta_adapters.training._reptile import SequentialReptile
from hf_meta_adapters.training._resume import reading_optimizer
from hf_meta_adapters.training._run_identity import RunIdentity
from hf_meta_adapters.training._run_record import run_record
from hf_meta_adapters.training._same_run import check_same_run
from hf_meta_adapters.training._weight_check import check_weights

if TYPE_CHECKING:
    from hf_meta_adapters.evaluation import LanguageScores


class SavingTrainer(GuardedTrainer):
    """Saves the model with its languages, and checkpoints that are whole; and resumes from them."""

    meta_dataset: MetaData | None
    """language → data of the meta-gradient."""
    scores: list[LanguageScores | JsonObject]
    """What else was measured of the model (`LanguageScores`), for the model card."""
    progress: Progress
    """Rows seen of each language, steps skipped."""
    _outer_step: OuterStep
    _reptile: SequentialReptile
    _run: RunIdentity
    _writer: CheckpointWriter

    def create_scheduler(
        self, *args: object, **kwargs: object
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The schedule of `transformers.Trainer`."""
        scheduler = super().create_scheduler(*args, **kwargs)
        self._run.note_rates(self.optimizer, scheduler)
        return scheduler

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model and its languages, whole even where parameters are sharded.

        Args:
            output_dir: The folder; default that of the arguments.
            _internal_call: As in `transformers.Trainer`.
        """
        # Without `super()`, which would have Accelerate write sharded weights in another format.
        with gathered(self._model, here=self.args.should_save):
            self._save(output_dir)

        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        """Write the model and its languages, the tokenizer, and the arguments; no pickle."""
        if not self.args.should_save:
            return

        folder = Path(output_dir or self.args.output_dir)
        record = run_record(
            self._model,
            self.args,
            {"train": self.train_dataset, "meta": self.meta_dataset},
            self.state.log_history,
            self.scores,
        )
        self._model.save_pretrained(folder, fallbacks=self._outer_step.check.level, **record)

        # As transformers does it: a collator may be all that knows the tokenizer.
        tokenizer = self.processing_class or getattr(self.data_collator, "tokenizer", None)
        if tokenizer is not None:
            save_tokenizer(tokenizer, folder)

        arguments = json.dumps(self.args.to_sanitized_dict(), indent=2)
        (folder / "training_args.json").write_text(arguments + "\n")

    def init_hf_repo(self, token: str | None = None, *args: object, **kwargs: object) -> None:
        """Create the repository; with `push_to_hub=True` before anything is trained.

        Args:
            token: The token; default that of the arguments.
            *args: As in `transformers.Trainer`.
            **kwargs: As there.

        Raises:
            HubError: If there is no connection or no token that may write, or the repository holds
                a family with languages that this model lacks.
        """
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        token = token or self.args.hub_token

        otherwise = "Or pass `push_to_hub=False`, and call `trainer.push_to_hub()` after training."
        with publishing(name, token, otherwise if self.args.push_to_hub else ""):
            super().init_hf_repo(token, *args, **kwargs)
            if self.is_world_process_zero():
                check_repository(self, token)

    def create_model_card(self, *_: object, **metadata: str | list[str]) -> None:
        """Write the card of the family to the output folder; it keeps what others wrote on the Hub.

        Args:
            *_: The language, which is known.
            **metadata: Further metadata, of those that `transformers.Trainer` takes `license` and
                `tags`.
        """
        if self.is_world_process_zero():
            write_card(Path(self.args.output_dir), self.hub_model_id, self.args, metadata)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # Without `super()`, which would leave out the languages and add the arguments as a pickle.
        if self.is_world_process_zero() and self.args.hub_strategy != HubStrategy.END:
            self.push_in_progress = push_checkpoint(self, Path(checkpoint_folder))

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        # Without `super()`, which would write to the place itself, file after file.
        self.check_trained()
        run_dir = Path(self._get_output_dir(trial))
        with self.progress.paused():
            if self.hp_search_backend is None and trial is None:
                self.store_flos()
            place = self._writer.write(
                run_dir, self.state, (self._write_model, self._write_run), self._checkpoint_record
            )

        if self.args.push_to_hub:
            self._push_from_checkpoint(str(place))

    def _write_run(self, folder: Path) -> None:
        if self.is_fsdp_enabled and not self.args.save_only_model:
            add_first_states(self.optimizer)

        super()._write_run(folder)
        if not self.args.save_only_model:
            self._outer_step.save(folder)
            self._reptile.save(folder)

    def _checkpoint_record(self) -> CheckpointRecord:
        return {
            "step": self.state.global_step,
            "model_only": bool(self.args.save_only_model),
            "settings": self._run.record(),
            "optimizer": optimizer_settings(self.optimizer, sharded=self.is_fsdp_enabled),
            "progress": self.progress.state_dict(),
            "optimizer_states": len(unwrapped(self.optimizer).state),
            "evaluation_due": self._evaluation_due,
        }

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        with gathered(self._model, write=True), compared_before():
            self._model.load_weights(resume_from_checkpoint)
        check_weights(self._model, resume_from_checkpoint)

        # A run that fell back to a safer setting of the meta-gradient continues with it.
        details = read_manifest(Path(resume_from_checkpoint)).details
        self._outer_step.check.level = cast(int, details.get("fallbacks", 0))

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        read_seal(best)  # it may have been written days ago

        with gathered(self._model, write=True), compared_before():
            self._model.load_weights(best)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return

        # States are loaded by position: those of another optimizer may fit by accident.
        record = read_record(Path(checkpoint))
        current = optimizer_settings(self.optimizer, sharded=self.is_fsdp_enabled)
        check_same_run(checkpoint, record["optimizer"], current)

        loading = self._run.loading_optimizer(checkpoint, record, self.optimizer, self.lr_scheduler)
        with loading, reading_optimizer(checkpoint, self.args.device):
            super()._load_optimizer_and_scheduler(checkpoint)

        self.progress.load_state_dict(record["progress"])
        self._outer_step.load(Path(checkpoint))
        self._reptile.load(Path(checkpoint))
        if record.get("evaluation_due", False):
            self._due_from = checkpoint
