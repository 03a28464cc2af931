"""What a training run publishes: its card, and its checkpoints while it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from hf_meta_adapters.hub.push import published_card, write_card_file

_OF_THE_RUN = (
    "*.pt",
    "*.pth",
    "*.bin",
    "trainer_state.json",
    "checkpoint.json",
    "scaler*",
    "checkpoint-*",
    "_*",
)
"""What a checkpoint needs to be gone on with, in formats of transformers, and nobody else has a use for."""


def run_record(trainer: Any) -> dict[str, Any]:
    """What is known of a run, for the manifest and the card: settings, data, the last scores, the time it took."""
    record: dict[str, Any] = {"training": trainer.args.method(), "data": _data(trainer)}
    history = trainer.state.log_history
    scores: dict[str, dict[str, float]] = {}
    for key in trainer._model.languages:
        name = f"eval_{key}_loss"
        found = [entry[name] for entry in history if name in entry]
        if found:
            scores[key] = {"loss": float(found[-1])}
    selection = [
        {"task": "evaluation", "metric": "loss", "dataset": "selection data", "scores": scores}
    ]
    if several := [*(selection if scores else []), *trainer.scores]:
        record["scores"] = several
    if times := [entry["train_runtime"] for entry in history if "train_runtime" in entry]:
        record["train_runtime"] = times[-1]
    name = getattr(trainer._model.base_model.config, "_name_or_path", "")
    if name and not Path(name).exists():
        record["base_model"] = name
    return record


def write_card(folder: Path, repo_id: str, args: Any, metadata: Mapping[str, Any]) -> None:
    """Write the model card of a run to its folder.

    Args:
        folder: The output folder, with the saved family.
        repo_id: The repository, whose card keeps what somebody has written on it.
        args: The training arguments.
        metadata: Further metadata.
    """
    existing = published_card(repo_id, args.hub_revision, args.hub_token)
    kept = {name: metadata[name] for name in ("license", "tags") if metadata.get(name)}
    write_card_file(folder, existing, repo_id=repo_id, metadata=kept)


def push_checkpoint(trainer: Any, checkpoint: Path) -> Any:
    """Publish a checkpoint in the background, as `transformers.Trainer` does, with the languages and without pickles.

    Args:
        trainer: The trainer.
        checkpoint: The folder that it has just written.

    Returns:
        The pushes in progress.
    """
    args, running = trainer.args, trainer.push_in_progress
    if not args.hub_always_push and running is not None and not running.is_done():
        return running
    if hasattr(trainer.callback_handler, "on_push_begin"):  # since transformers 5
        trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
    output = Path(args.output_dir)
    shutil.copytree(
        checkpoint, output, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_OF_THE_RUN)
    )
    write_card(output, trainer.hub_model_id, args, {})
    where = {"repo_id": trainer.hub_model_id, "revision": args.hub_revision, "run_as_future": True}
    message = f"Training in progress, step {trainer.state.global_step}"
    api = HfApi(token=args.hub_token)
    jobs = [
        api.upload_folder(
            folder_path=output, commit_message=message, ignore_patterns=[*_OF_THE_RUN], **where
        )
    ]
    if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        last = args.hub_strategy == HubStrategy.CHECKPOINT
        name = "last-checkpoint" if last else checkpoint.name
        jobs.append(
            api.upload_folder(
                folder_path=checkpoint,
                path_in_repo=name,
                commit_message=f"{message}, checkpoint",
                **where,
            )
        )
    if running is not None and not running.is_done():
        running.jobs.extend(jobs)
        return running
    return PushInProgress(jobs)


def _data(trainer: Any) -> dict[str, dict[str, int]]:
    """Of each language the rows of training and of meta text, where they can be counted."""
    found: dict[str, dict[str, int]] = {}
    for role, datasets in (("train", trainer.train_dataset), ("meta", trainer.meta_dataset)):
        for key, dataset in (datasets or {}).items():
            if hasattr(dataset, "__len__"):
                found.setdefault(key, {})[role] = len(dataset)
    return found
