"""What a model is for, told by its class: the task that the Hub lists it under."""

from __future__ import annotations

from collections.abc import Mapping

import transformers
from transformers.models.auto import modeling_auto

# A class may be in several: BART predicts masked words as well as texts.
_TAGS: Mapping[str, Mapping[str, object]] = {
    "text2text-generation": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "text-generation": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "fill-mask": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "text-classification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token-classification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "question-answering": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "automatic-speech-recognition": modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    "feature-extraction": modeling_auto.MODEL_MAPPING_NAMES,
}
"""Tag of the Hub → the classes that transformers has for it."""


def pipeline_tag(base_class: str) -> str | None:
    """The task of a model class; `None` if it is unknown.

    Args:
        base_class: The name of the class.
    """
    for tag, classes in _TAGS.items():
        names: set[object] = set()
        for found in classes.values():
            # a type of model may have several classes for a task
            names.update(found if isinstance(found, (list, tuple)) else [found])
        if base_class in names:
            return tag

    return None


def is_in_transformers(base_class: str) -> bool:
    """Whether a model class is one of transformers, not somebody's own."""
    return hasattr(transformers, base_class)


def reads_text(base_class: str) -> bool:
    """Whether the main input of a model class is the ids of tokens."""
    found = getattr(transformers, base_class, None)
    return getattr(found, "main_input_name", "") == "input_ids"
