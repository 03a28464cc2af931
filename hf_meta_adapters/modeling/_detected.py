"""Rows whose languages are detected from their texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from hf_meta_adapters._typing import Language, RowLanguages
from hf_meta_adapters.data.detection import AUTO, LanguageDetection
from hf_meta_adapters.errors import ConfigurationError

_ARGUMENTS = ("texts", "detection")


def with_detection(
    language: RowLanguages | None, known: Sequence[Language], inputs: dict[str, object]
) -> tuple[RowLanguages | None, dict[str, object]]:
    """The language of each row in place of "auto", and the inputs without what tells it.

    Args:
        language: What was passed as the language.
        known: The languages of the model; one that is called "auto" is meant itself.
        inputs: The keyword arguments, with `texts` and perhaps `detection`.

    Raises:
        LanguageError: If texts are in no language of the model and there is no fallback.
        ConfigurationError: If there are no texts, or texts but nothing to be detected.
    """
    given = [name for name in _ARGUMENTS if name in inputs]
    if language != AUTO or AUTO in known:
        if given:
            raise ConfigurationError(
                f"`{given[0]}` is read where languages are detected. Found `language={language!r}`."
                f' Pass `language="{AUTO}"`, or leave `{given[0]}` out.'
            )
        return language, inputs

    detection = inputs.get("detection", LanguageDetection())
    if not isinstance(detection, LanguageDetection):
        raise ConfigurationError(
            f"`detection` must be a `LanguageDetection`. Found `{type(detection).__name__}`. Use"
            " `LanguageDetection(detector)` of `hf_meta_adapters.data.detection`."
        )

    rest = {name: value for name, value in inputs.items() if name not in _ARGUMENTS}
    texts = cast(Any, inputs.get("texts"))  # checked there
    return detection.languages_of(texts, known), rest
