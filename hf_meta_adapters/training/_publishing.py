"""What a training run publishes: its card, and its checkpoints while it is running."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import HfApi
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from hf_meta_adapters.hub.links import check_no_links
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
"""What only a resumed run needs, in formats of transformers: not part of the published model."""


def write_card(
    folder: Path, repo_id: str, args: TrainingArguments, metadata: Mapping[str, str | list[str]]
) -> None:
    """Write the model card of a run to its folder.

    Args:
        folder: The output folder, with the saved family.
        repo_id: The repository, whose card keeps what somebody has written on it.
        args: The training arguments.
        metadata: Further metadata; `license` and `tags` are used.
    """
    existing = published_card(repo_id, args.hub_revision, args.hub_token)
    kept = {name: metadata[name] for name in ("license", "tags") if metadata.get(name)}
    write_card_file(folder, existing, repo_id=repo_id, metadata=kept)


def push_checkpoint(trainer: Trainer, checkpoint: Path) -> PushInProgress:
    """Publish a checkpoint in the background, with the languages and without pickles.

    As `transformers.Trainer` does it, but for what is published.

    Args:
        trainer: The trainer.
        checkpoint: The folder that it has just written.

    Returns:
        The pushes in progress.
    """
    args, running = trainer.args, trainer.push_in_progress

    # Uploads that take longer than the steps in between would pile up.
    is_pushing = running is not None and not running.is_done()
    if is_pushing and not args.hub_always_push:
        return running

    if hasattr(trainer.callback_handler, "on_push_begin"):  # since transformers 5
        trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)

    # From the checkpoint, not from the model, which is being trained while the upload runs.
    output = Path(args.output_dir)
    check_no_links(output, [path.name for path in checkpoint.iterdir() if path.is_dir()])
    ignored = shutil.ignore_patterns(*_OF_THE_RUN)
    shutil.copytree(checkpoint, output, dirs_exist_ok=True, ignore=ignored)
    write_card(output, trainer.hub_model_id, args, {})

    jobs = _upload(args, trainer.hub_model_id, trainer.state.global_step, checkpoint)

    # At the end of training transformers waits for what is in progress.
    if is_pushing:
        running.jobs.extend(jobs)
        return running
    return PushInProgress(jobs)


def _upload(args: TrainingArguments, repo_id: str, step: int, checkpoint: Path) -> list[object]:
    """Start the uploads: the model, and the checkpoint where the strategy says so."""
    api = HfApi(token=args.hub_token)
    message = f"Training in progress, step {step}"

    jobs: list[object] = [
        api.upload_folder(
            repo_id=repo_id,
            revision=args.hub_revision,
            folder_path=args.output_dir,
            commit_message=message,
            ignore_patterns=list(_OF_THE_RUN),
            run_as_future=True,
        )
    ]

    names = {
        HubStrategy.CHECKPOINT: "last-checkpoint",
        HubStrategy.ALL_CHECKPOINTS: checkpoint.name,
    }
    if args.hub_strategy in names:
        jobs.append(
            api.upload_folder(
                repo_id=repo_id,
                revision=args.hub_revision,
                folder_path=checkpoint,
                path_in_repo=names[args.hub_strategy],
                commit_message=f"{message}, checkpoint",
                run_as_future=True,
            )
        )
    return jobs
