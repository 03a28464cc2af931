"""Where a recipe resumes a run from."""

from __future__ import annotations

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.pretraining._text_arguments import TextArguments
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

__all__ = ["checkpoint_to_resume"]

_LAST = ("last", "true", "yes", "1")
_NONE = ("", "none", "false", "no", "0")


def checkpoint_to_resume(
    args: TextArguments, training: MetaAdapterTrainingArguments
) -> str | bool | None:
    """Return what `MetaAdapterTrainer.train` takes for `resume_from_checkpoint`.

    Args:
        args: `resume`.
        training: `resume_from_checkpoint`: the folder of a checkpoint, or `"last"` or `"true"` for
            the newest in `output_dir`.

    Returns:
        A folder, `True` for the newest checkpoint, or `None` for a new run.

    Raises:
        ConfigurationError: If both name a checkpoint.

    Example:
        >>> args = TextArguments(model="name")
        >>> training = MetaAdapterTrainingArguments(resume_from_checkpoint="last", report_to="none")
        >>> checkpoint_to_resume(args, training)
        True
    """
    # On a command line it is a string, in a YAML file it may be a boolean.
    given = training.resume_from_checkpoint
    word = str(given or "").lower()
    if word in _LAST:
        return True

    if word in _NONE:
        return args.resume or None

    if args.resume:
        raise ConfigurationError(
            "A run resumes from one checkpoint. Found `resume`, the newest, and"
            f" `resume_from_checkpoint={given!r}`. Leave one of them out."
        )
    return str(given)
