"""What a training run publishes: its card, and its checkpoints while it is running."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from hf_meta_adapters.errors import ConfigurationError, HubError
from hf_meta_adapters.hub.client import Access, speaking_of
from hf_meta_adapters.hub.links import check_no_links, cut_hard_links
from hf_meta_adapters.hub.public import KEPT_ROWS, additions, files_to_publish
from hf_meta_adapters.hub.push import (
    check_base,
    check_no_language_is_lost,
    published_card,
    write_card_file,
)
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.sharding import gathered

Metadata: TypeAlias = Mapping[str, str | list[str]]

_PICKLES = ("*.bin", "*.pt", "*.pth")

_OF_THE_RUN = (
    *_PICKLES,
    KEPT_ROWS,
    "trainer_state.json",
    "checkpoint.json",
    "scaler*",
    "checkpoint-*",
    "_*",
)
"""What only a resumed run needs, in formats of transformers: not part of the published model."""


def write_card(folder: Path, repo_id: str, args: TrainingArguments, metadata: Metadata) -> None:
    """Write the model card of a run to its folder.

    Args:
        folder: The output folder, with the saved family.
        repo_id: The repository, whose card keeps what somebody has written on it.
        args: The training arguments.
        metadata: Further metadata; `license` and `tags` are used.
    """
    existing = published_card(repo_id, args.hub_revision, args.hub_token)
    kept = {name: metadata[name] for name in ("license", "tags") if metadata.get(name)}
    access = Access(token=args.hub_token)
    write_card_file(folder, existing, repo_id=repo_id, metadata=kept, access=access)


def check_publishable(model: LanguageAdapterModel) -> None:
    """Refuse a model over a base that only this machine has. All processes call it together.

    Raises:
        HubError: Before anything is written.
    """
    with gathered(model):
        family = model._family({}, model.base_state_dict())
    check_base(family)


def check_other_languages(model: LanguageAdapterModel, args: TrainingArguments) -> None:
    """Refuse an output folder with languages that were not loaded and could not stay there.

    Raises:
        ConfigurationError: If θ is trained, or checkpoints are copied into the folder.
    """
    output = Path(str(args.output_dir))
    if not (model.shared_parameters() or args.push_to_hub):
        return

    at_stake = model._others.at_stake(output, model.languages)
    if at_stake:
        raise ConfigurationError(
            "`output_dir` must not be a family with languages that this model was loaded without:"
            f" they stay with the θ that they were trained with. Found {at_stake} in {output}. Pass"
            " another `output_dir`, load these languages as well, or freeze θ with"
            " `model.train_only(...)`."
        )


@contextmanager
def publishing(repo_id: str, token: str | bool | None, otherwise: str) -> Iterator[None]:
    """Turn the errors of the Hub into those of this package, and say what is not lost.

    Args:
        repo_id: The repository.
        token: The token.
        otherwise: What to do instead, and what there is already.

    Raises:
        HubError: In place of an error of the client.
    """
    try:
        with speaking_of(repo_id, token, writing=True):
            yield
    except HubError as error:
        raise HubError(f"{error} {otherwise}".strip()) from error


def check_repository(trainer: Trainer, token: str | None) -> None:
    """Refuse to replace a published family by one that lacks languages of it.

    Raises:
        HubError: If the repository has such languages.
    """
    access = Access(trainer.args.hub_revision, token)
    check_no_language_is_lost(trainer.hub_model_id, trainer._model.languages, access)


def push_run(
    trainer: Trainer, message: str | None, *, blocking: bool, access: Access, metadata: Metadata
) -> CommitInfo | Future[CommitInfo] | None:
    """Save the model of a run and publish its folder, as `transformers.Trainer` does it.

    Not published are checkpoints, pickles, logs of TensorBoard, and what texts tell of the machine.

    Args:
        trainer: The trainer.
        message: The message of the commit.
        blocking: Whether to wait until it is published.
        access: The branch, and the token.
        metadata: Further metadata of the card.

    Returns:
        The commit, or its future; `None` in processes that do not publish.

    Raises:
        HubError: If the model is over a base that only this machine has.
    """
    check_publishable(trainer._model)
    if hasattr(trainer.callback_handler, "on_push_begin"):  # since transformers 5
        trainer.callback_handler.on_push_begin(trainer.args, trainer.state, trainer.control)

    # All processes, which hold parts of the model; one of them publishes. And before the Hub is
    # asked for anything: whatever it answers, the model is on the disk.
    trainer.save_model(_internal_call=True)

    output = Path(str(trainer.args.output_dir))
    kept = f"The model is saved in {output}; nothing of the training is lost."
    with publishing(trainer.hub_model_id or output.name, access.token, kept):
        # Without `push_to_hub=True` there is no repository yet.
        if trainer.hub_model_id is None:
            trainer.init_hf_repo(token=access.token)
        if not trainer.is_world_process_zero():
            return None

        trainer.create_model_card(**_with_model_tags(trainer, metadata))

    trainer._finish_current_push()
    files = files_to_publish(output, *_PICKLES, "_*", "checkpoint-*")
    commit = partial(
        access.api().create_commit,
        trainer.hub_model_id,
        additions(output, files, repo_id=trainer.hub_model_id),
        commit_message=message or "End of training",
        revision=access.revision,
    )
    if not blocking:
        return commit(run_as_future=True)

    with publishing(trainer.hub_model_id, access.token, kept):
        return commit()


def _with_model_tags(trainer: Trainer, metadata: Metadata) -> Metadata:
    """The metadata with the tags that the base model has, as transformers adds them."""
    tags = getattr(trainer._model, "model_tags", None)
    if not tags:
        return metadata

    given = metadata.get("tags") or []
    if isinstance(given, str):
        given = [given]
    return {**metadata, "tags": [*given, *tags]}


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
    folders = [path.name for path in checkpoint.iterdir() if path.is_dir()]
    check_no_links(output, folders)
    cut_hard_links(output, folders)
    ignored = shutil.ignore_patterns(*_OF_THE_RUN)
    shutil.copytree(checkpoint, output, dirs_exist_ok=True, ignore=ignored)
    try:
        write_card(output, trainer.hub_model_id, args, {})
    except HubError as error:
        # The checkpoint is whole, and the next one may be luckier.
        warnings.warn(
            f"A checkpoint is not published, and training goes on: {error} The checkpoint is in"
            f" {checkpoint}.",
            stacklevel=2,
        )
        return running if is_pushing else PushInProgress([])

    jobs = _upload(args, trainer.hub_model_id, trainer.state.global_step, checkpoint)

    # At the end of training transformers waits for what is in progress.
    if is_pushing:
        running.jobs.extend(jobs)
        return running
    return PushInProgress(jobs)


def _upload(args: TrainingArguments, repo_id: str, step: int, checkpoint: Path) -> list[object]:
    """Start the uploads: the model, and the checkpoint where the strategy says so."""
    output, message = Path(str(args.output_dir)), f"Training in progress, step {step}"

    model = additions(output, files_to_publish(output, *_OF_THE_RUN), repo_id=repo_id)
    jobs: list[object] = [_commit(args, repo_id, model, message)]

    names = {
        HubStrategy.CHECKPOINT: "last-checkpoint",
        HubStrategy.ALL_CHECKPOINTS: checkpoint.name,
    }
    if args.hub_strategy in names:
        place = names[args.hub_strategy]
        files = additions(checkpoint, files_to_publish(checkpoint), target=place, run=output)
        jobs.append(_commit(args, repo_id, files, f"{message}, checkpoint"))
    return jobs


def _commit(
    args: TrainingArguments, repo_id: str, files: Sequence[CommitOperationAdd], message: str
) -> object:
    """Start a commit in the background."""
    return HfApi(token=args.hub_token).create_commit(
        repo_id,
        files,
        commit_message=message,
        revision=args.hub_revision,
        run_as_future=True,
    )
