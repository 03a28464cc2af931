"""Whether model, arguments and optimizer can work together, checked before anything else."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.losses import predicts_the_next_token
from hf_meta_adapters.training._optimizer_groups import embedding_parameters
from hf_meta_adapters.training._publishing import check_other_languages, check_publishable
from hf_meta_adapters.training._reptile import check_reptile
from hf_meta_adapters.training._surgery_state import surgery_of
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments


def check_setup(model: object, args: object, optimizer: object) -> None:
    """Check that model, arguments and the user's optimizer can work together.

    Args:
        model: What was given as the model.
        args: What was given as the arguments.
        optimizer: The optimizer that was given, if one was.

    Raises:
        ConfigurationError: If they cannot.
        HubError: If the model is to be published and cannot be.
    """
    if not isinstance(model, LanguageAdapterModel):
        raise ConfigurationError(
            f"`model` must be a LanguageAdapterModel. Found `{type(model).__name__}`. Pass"
            " `get_language_model(model, BottleneckConfig(), languages=[...])`, or use"
            " `config=None` for a baseline."
        )

    if not isinstance(args, MetaAdapterTrainingArguments):
        raise ConfigurationError(
            f"`args` must be MetaAdapterTrainingArguments. Found `{type(args).__name__}`. Pass"
            " MetaAdapterTrainingArguments, which accept the same arguments."
        )

    # Now, and not hours later, with the first checkpoint.
    if args.push_to_hub:
        check_publishable(model)
    check_other_languages(model, args)
    _check_output_dir(Path(str(args.output_dir)))

    _check_rates(model, args, optimizer)

    surgery_of(model, args)
    check_reptile(model, args, optimizer)
    if args.label_smoothing_factor:
        _check_label_smoothing(model, args.label_smoothing_factor)


def _check_rates(
    model: LanguageAdapterModel,
    args: MetaAdapterTrainingArguments,
    optimizer: object,
) -> None:
    """Check that there are groups of parameters for the rates that were given."""
    names = ("adapter_learning_rate", "embedding_learning_rate")
    given = [name for name in names if vars(args)[name] is not None]
    if optimizer is not None and given:
        raise ConfigurationError(
            f"`{given[0]}` is the rate of parameter groups in the optimizer that the"
            " Trainer creates. Found it together with an optimizer that you created,"
            f" `{type(optimizer).__name__}`. Give that optimizer two groups, with `.values()` of"
            " `shared_parameters()` and `language_parameters(...)`, and leave out"
            f" `{given[0]}`."
        )

    if args.embedding_learning_rate is not None and not embedding_parameters(model):
        raise ConfigurationError(
            "`embedding_learning_rate` is the rate of embeddings that θ trains. Found none of them"
            ' in θ. Leave it out, or let θ have some: `shared="all"`, or'
            " `trainable_token_indices` in the `LoraConfig` of `shared`."
        )


def _check_label_smoothing(model: LanguageAdapterModel, factor: float) -> None:
    """Check that a label belongs to the logits of its own place, as the Trainer takes it."""
    reason = None
    if predicts_the_next_token(model):
        reason = "a model that predicts the next token: the Trainer would not shift its labels"
    elif getattr(getattr(model.backend, "config", None), "is_prompt_learning", False):
        reason = "a prompt: the Trainer would not tell its places from those of the text"

    if reason is not None:
        raise ConfigurationError(
            f"`label_smoothing_factor` must be 0 for {reason}. Found {factor}. Pass a"
            " `compute_loss_func`."
        )


def _check_output_dir(folder: Path) -> None:
    """Check that files can be written to a folder, which is created if it is missing."""
    # By writing: permissions do not show that a file system is mounted read-only.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"`output_dir` must be a writable folder. Found {folder}: {error.strerror or error}."
            " Pass the name of a new folder."
        ) from error
