"""The language of a text, told by a detector, as a language of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError, LanguageError, check_known_language

__all__ = ["AUTO", "Detector", "LanguageDetection"]

AUTO = "auto"
"""What stands for a language that is to be detected."""

Detector: TypeAlias = Callable[[list[str]], list[str]]
"""Texts → the tag of the language of each, such as `"sw"`."""

_LEAST_CONFIDENCE = 0.5
"""A language that is less likely than all others together is no answer."""
_SHOWN = 3
_LONGEST = 40


@dataclass(frozen=True)
class LanguageDetection:
    """Tells of texts which languages of a model they are in.

    A detector answers with tags of its own. A tag is the language of the same key, whatever the
    case of the letters; and `"zh"` is `"zh-Hant"`, or the other way round, where the model has no
    other language of that kind.

    Args:
        detector: Texts → the tag of each. Default py3langid (the extra `detect`), which knows 139
            languages and needs no network; a text that it is not sure of is in no language.
        fallback: The language of texts that are in no language of the model; `None` refuses them.

    Example:
        >>> def by_greeting(texts):
        ...     return ["sw" if "Habari" in text else "en" for text in texts]
        >>> detection = LanguageDetection(by_greeting)
        >>> detection.languages_of(["Habari gani?", "How are you?"], ["en", "sw"])
        ['sw', 'en']
    """

    detector: Detector | None = None
    fallback: Language | None = None

    def languages_of(self, texts: Sequence[str], known: Sequence[Language]) -> list[Language]:
        """Return the language of each text.

        Args:
            texts: The texts.
            known: The languages of the model.

        Returns:
            A language of `known` for each text.

        Raises:
            LanguageError: If texts are in none of them and there is no `fallback`.
            ConfigurationError: If the detector is missing, or does not return a tag for each text.
        """
        listed = _checked_texts(texts)
        if self.fallback is not None:
            check_known_language(self.fallback, known)

        tags = _checked_tags((self.detector or detect_by_py3langid)(listed), len(listed))
        found = [_language_of(tag, known) or self.fallback for tag in tags]

        lost = [number for number, language in enumerate(found) if language is None]
        if lost:
            shown = ", ".join(
                f"row {number} ({tags[number]!r}: {listed[number][:_LONGEST]!r})"
                for number in lost[:_SHOWN]
            )
            more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
            raise LanguageError(
                f"Every text must be in a language of the model, {list(known)}, where there is no"
                f" fallback. Found {shown}{more}. Pass `fallback=` one of them."
            )
        return [language for language in found if language is not None]


def detect_by_py3langid(texts: list[str]) -> list[str]:
    """Tag each text by py3langid, `"und"` where it is not sure.

    Args:
        texts: The texts.

    Returns:
        ISO 639 codes.

    Raises:
        ConfigurationError: If the library is not installed.
    """
    identifier = _identifier()
    return [str(identifier.classify(text)[0]) for text in texts]


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "Languages are detected by py3langid unless there is another detector. Found it not"
            ' installed. Run `pip install "hf-meta-adapters[detect]"`, or pass'
            " `LanguageDetection(detector)` with a function from a list of texts to a list of tags."
        ) from error

    # of its own: the one of the module may have been limited to some languages
    return LanguageIdentifier.from_model_file(
        MODEL_FILE, norm_probs=True, min_confidence=_LEAST_CONFIDENCE
    )


def _language_of(tag: str, known: Sequence[Language]) -> Language | None:
    """The language that a tag means, if there is one."""
    parts = _parts(tag)
    for language in known:
        if _parts(language) == parts:
            return language

    # one of the two names a script or a region, the other does not
    near = [
        language
        for language in known
        if _parts(language)[0] == parts[0] and 1 in (len(parts), len(_parts(language)))
    ]
    return near[0] if len(near) == 1 else None


def _parts(tag: str) -> list[str]:
    return tag.lower().replace("_", "-").split("-")


def _checked_texts(texts: object) -> list[str]:
    is_list = isinstance(texts, Sequence) and not isinstance(texts, str)
    listed = list(texts) if is_list else []  # type: ignore[call-overload]
    if not is_list or not all(isinstance(text, str) for text in listed):
        raise ConfigurationError(
            "Languages are detected of a list of texts, one for each row. Found"
            f" {str(texts)[:_LONGEST]!r} of type `{type(texts).__name__}`. Pass"
            " `texts=[...]`, what the tokenizer was given."
        )
    return list(texts)  # type: ignore[call-overload]


def _checked_tags(tags: object, count: int) -> list[str]:
    is_list = isinstance(tags, (list, tuple)) and all(isinstance(tag, str) for tag in tags)
    if not is_list or len(tags) != count:  # type: ignore[arg-type]
        raise ConfigurationError(
            f"A detector must return a list with a tag for each of the {count} texts. Found"
            f" {str(tags)[:99]!r}. Return for example `['en', 'sw']`."
        )
    return list(tags)  # type: ignore[call-overload]
