"""What processes compare of the arguments: all of them, but for a table of exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from hf_meta_adapters.training._described import described
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

_PLACE = "where a process writes: machines may have disks of their own"
_TELLING = "what a process tells people: usually the first one tells more"
_PUBLISHING = "only the first process talks to the Hub"
_READING = "how fast a process reads its rows, not which"
_OWN = "which process it is, or what Accelerate makes of it"
_SCRIPT = "for scripts; the Trainer does not read it"

OWN_ARGUMENTS: Mapping[str, str] = {
    "output_dir": _PLACE,
    "overwrite_output_dir": _PLACE,
    "logging_dir": _PLACE,
    "resume_from_checkpoint": _PLACE,
    "run_name": _TELLING,
    "log_level": _TELLING,
    "log_level_replica": _TELLING,
    "log_on_each_node": _TELLING,
    "disable_tqdm": _TELLING,
    "report_to": _TELLING,
    "project": _TELLING,
    "trackio_space_id": _TELLING,
    "trackio_bucket_id": _TELLING,
    "trackio_static_space_id": _TELLING,
    "hub_token": _PUBLISHING,
    "hub_model_id": _PUBLISHING,
    "hub_private_repo": _PUBLISHING,
    "hub_strategy": _PUBLISHING,
    "hub_always_push": _PUBLISHING,
    "hub_revision": _PUBLISHING,
    "push_to_hub_token": _PUBLISHING,
    "push_to_hub_model_id": _PUBLISHING,
    "push_to_hub_organization": _PUBLISHING,
    "dataloader_num_workers": _READING,
    "dataloader_prefetch_factor": _READING,
    "dataloader_pin_memory": _READING,
    "dataloader_persistent_workers": _READING,
    "dataloader_multiprocessing_context": _READING,
    "local_rank": _OWN,
    "ddp_backend": _OWN,
    "do_train": _SCRIPT,
    "do_eval": _SCRIPT,
    "do_predict": _SCRIPT,
    "ray_scope": _SCRIPT,
}
"""The arguments that may differ between processes → why. All others must be equal."""


def argument_record(args: MetaAdapterTrainingArguments) -> dict[str, str]:
    """What processes compare of the arguments.

    Args:
        args: The arguments.

    Returns:
        What is compared → its description.
    """
    record: dict[str, str] = {}
    for argument in fields(args):
        if argument.name not in OWN_ARGUMENTS:
            record[f"`{argument.name}`"] = described(getattr(args, argument.name, None))
    return record
