"""The errors of the package, and the one place where a language key is validated.

Every message states the rule, what was found, and what to do instead.
"""

from __future__ import annotations

import difflib
import re
import reprlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module

__all__ = [
    "CheckpointError",
    "ConfigurationError",
    "DataError",
    "HubError",
    "LanguageError",
    "MetaAdapterError",
    "NonFiniteLossError",
    "UnsupportedModelError",
    "check_known_language",
    "check_language",
    "check_languages",
]

_LANGUAGE = re.compile(r"[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*")
_LONGEST = 64

_RESERVED = "shared"
"""The folder of what all languages share, in a saved model."""

_CHECKPOINT = "checkpoint-"
"""How the folders of checkpoints begin, which a run writes next to those of languages."""


class MetaAdapterError(Exception):
    """Base class of every error that the package raises on purpose."""


class LanguageError(MetaAdapterError, ValueError):
    """A language key is malformed, unknown, missing or duplicated."""


class ConfigurationError(MetaAdapterError, ValueError):
    """Settings that cannot work, alone or together."""


class DataError(MetaAdapterError, ValueError):
    """Data that nothing can be trained or scored on."""


class HubError(MetaAdapterError, ValueError):
    """Files of a saved model that are missing, foreign, damaged or unsafe."""


class CheckpointError(HubError):
    """A checkpoint that is incomplete, damaged, of another run, or could not be written."""


class UnsupportedModelError(MetaAdapterError, ValueError):
    """A model that cannot take the adapter."""


class NonFiniteLossError(MetaAdapterError, ArithmeticError):
    """A loss, gradient or weight that is NaN or infinite, with the language and the step."""

    overflow: bool = False
    """Whether finite training losses led to something that is not finite, as fp16 does."""


def check_language(language: object) -> str:
    """Return `language` if it is a valid language key.

    A key consists of ASCII letters and digits in parts joined by `-` or `_`, with at most 64
    characters, because it names a module and a folder. BCP-47 tags such as `"en"`, `"zh-Hant"` and
    `"pt-BR"` are valid keys. `"shared"` is not: it names the folder of what all languages share.
    Nor is `"checkpoint-1"`: a run that keeps only its last checkpoints would delete that folder.

    Args:
        language: The key.

    Returns:
        The same key.

    Raises:
        LanguageError: If it is anything else.

    Example:
        >>> check_language("zh-Hant")
        'zh-Hant'
    """
    if not isinstance(language, str):
        # Often a batch that was passed by position: `reprlib` keeps its tensors short.
        raise LanguageError(
            f"A language key must be a string. Found {reprlib.repr(language)} of type"
            f' `{type(language).__name__}`. Use for example "en", and pass the inputs of a model by'
            ' name, as in `model(language="en", input_ids=...)`.'
        )

    if len(language) > _LONGEST or not _LANGUAGE.fullmatch(language):
        raise LanguageError(
            "A language key must consist of ASCII letters and digits in parts joined by `-` or `_`"
            f" (at most {_LONGEST} characters), because it names a module and a folder. Found"
            f' {language!r}. Use for example "en", "zh-Hant" or "pt-BR".'
        )

    # Some file systems ignore case.
    if language.lower() == _RESERVED:
        raise LanguageError(
            "A language key must not be the name of the folder of what all languages share. Found"
            f' {language!r}. Use another key, for example "all".'
        )

    if language.lower().startswith(_CHECKPOINT):
        raise LanguageError(
            f"A language key must not begin as the folder of a checkpoint, `{_CHECKPOINT}`, which a"
            f" training run deletes as newer ones come. Found {language!r}. Use another key, for"
            f" example {language.replace('-', '_')!r}."
        )

    return language


def check_languages(languages: Iterable[object]) -> tuple[str, ...]:
    """Return `languages` as a tuple of valid keys, in the given order, each once.

    Args:
        languages: The keys.

    Returns:
        The keys.

    Raises:
        LanguageError: If there are none, one is malformed or duplicated, two differ by letter case
            alone (some file systems would give them one folder), or they have no order (a set, in
            which processes that train together could disagree).

    Example:
        >>> check_languages(["en", "sw"])
        ('en', 'sw')
    """
    if isinstance(languages, str):
        raise LanguageError(
            f"`languages` must be a list of keys. Found the string {languages!r}. Use"
            f" [{languages!r}]."
        )

    if isinstance(languages, (set, frozenset)) or not isinstance(languages, Iterable):
        raise LanguageError(
            "`languages` must be a list of keys, in an order that is the same in every process."
            f" Found {reprlib.repr(languages)} of type `{type(languages).__name__}`. Use for"
            ' example ["en", "sw"].'
        )

    keys = tuple(check_language(language) for language in languages)
    if not keys:
        raise LanguageError(
            '`languages` must name at least one language. Found none. Use for example ["en", "sw"].'
        )

    seen: dict[str, str] = {}
    for key in keys:
        twin = seen.get(key.lower())
        if twin is not None:
            raise LanguageError(
                "Languages must be named once and differ by more than letter case. Found"
                f" {twin!r} and {key!r} in {list(keys)}. Remove or rename one of them."
            )
        seen[key.lower()] = key

    return keys


def check_known_language(
    language: object, known: Iterable[str], *, what: str = "this model"
) -> str:
    """Return `language` if it is one of `known`, matched by its exact name.

    Args:
        language: The key.
        known: The valid keys.
        what: What has these languages, for the message.

    Returns:
        The same key.

    Raises:
        LanguageError: If it is not among them; the message lists them and suggests the nearest.

    Example:
        >>> check_known_language("sw", ["en", "sw"])
        'sw'
    """
    key = check_language(language)
    names = list(known)
    if key in names:
        return key

    message = f"The language must be one of {what}: {names}. Found {key!r}."
    by_lower = {name.lower(): name for name in names}
    nearest = difflib.get_close_matches(key.lower(), by_lower, n=1)
    if nearest:
        message += f" Did you mean {by_lower[nearest[0]]!r}?"
    raise LanguageError(message)


def moved_names(module: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return a module's `__getattr__` that finds moved names, with a `DeprecationWarning`.

    Args:
        module: The name of the module that the names have left.
        homes: Name → the module to import it from.

    Returns:
        The function, as PEP 562 defines it.
    """

    def find(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")

        # Level 2 is the line that asks for the name, which is where the import has to change.
        warnings.warn(
            f"`{name}` has moved from `{module}`. Import it from `{homes[name]}`.",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(import_module(homes[name]), name)

    return find
