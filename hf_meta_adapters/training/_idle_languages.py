"""Languages of a model that a run does not train are named once."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

_LOGGER = logging.getLogger(__name__)


def tell_idle_languages(
    model: LanguageAdapterModel, args: MetaAdapterTrainingArguments, train_dataset: object
) -> None:
    """Log a warning if θ is trained, and adapters of other languages stay as they are.

    Args:
        model: The model.
        args: The arguments, which say whether this process logs.
        train_dataset: language → training data.
    """
    if not isinstance(train_dataset, Mapping) or not args.should_log:
        return

    # Where θ stays, the others are what they were; without φ of their own they move along with θ.
    moves = any(parameter.requires_grad for parameter in model.shared_parameters().values())
    idle = [
        language
        for language in model.languages
        if language not in train_dataset and model.language_parameters(language)
    ]
    if moves and idle:
        _LOGGER.warning(
            "`train_dataset` has no data of %s: the adapters of these languages stay as they are,"
            " while the shared weights change. Add data of theirs, or, if they were trained"
            " before, keep the shared weights with `model.train_only(%s)`.",
            idle,
            ", ".join(f'"{language}"' for language in train_dataset),
        )
