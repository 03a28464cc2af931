"""The errors of the package, and the one place where a language key is validated.

Every message says the rule, what was found, and what to write instead.
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
    "moved_names",
]

_LANGUAGE = re.compile(r"[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*")
_LONGEST = 64
_RESERVED = "shared"


class MetaAdapterError(Exception):
    """Base class of every error that the package raises on purpose."""


class LanguageError(MetaAdapterError, ValueError):
    """A language key is malformed, unknown, missing or given twice."""


class ConfigurationError(MetaAdapterError, ValueError):
    """Settings that cannot work, alone or together."""


class DataError(MetaAdapterError, ValueError):
    """Data that cannot be trained or scored on."""


class HubError(MetaAdapterError, ValueError):
    """Files of a saved model that are missing, foreign, damaged or unsafe."""


class CheckpointError(HubError):
    """A checkpoint that is incomplete, damaged or of another run, or that could not be written."""


class UnsupportedModelError(MetaAdapterError, ValueError):
    """A model into which the adapter cannot be put."""


class NonFiniteLossError(MetaAdapterError, ArithmeticError):
    """A loss that is NaN or infinite, with the language and the step where it appeared."""

    overflow: bool = False
    """Whether the training losses are finite and what was computed from them is not, as where fp16 overflows."""


def check_language(language: object) -> str:
    """Return `language` if it is a valid language key.

    A key is made of ASCII letters and digits, in parts joined by `-` or `_`, at most 64 characters:
    it is used as the name of a module and of a folder. BCP-47 tags such as `"en"`, `"zh-Hant"` and
    `"pt-BR"` are valid keys. The key `"shared"` is not: it names the folder of what all languages
    share.

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
        raise LanguageError(
            f"A language key must be a string. Found {reprlib.repr(language)} of type"
            f' `{type(language).__name__}`. Write for example "en"; the inputs of a model go by'
            ' name, as in `model(language="en", input_ids=...)`.'
        )
    if len(language) > _LONGEST or not _LANGUAGE.fullmatch(language):
        raise LanguageError(
            "A language key must be made of ASCII letters and digits in parts joined by `-` or `_`"
            f" (at most {_LONGEST} characters), because it names a module and a folder. Found"
            f' {language!r}. Write for example "en", "zh-Hant" or "pt-BR".'
        )
    if language.lower() == _RESERVED:
        raise LanguageError(
            "A language key must not be the name of the folder of what all languages share. Found "
            f'{language!r}. Write another key, for example "all".'
        )
    return language


def check_languages(languages: Iterable[object]) -> tuple[str, ...]:
    """Return `languages` as a tuple of valid keys, in the given order, each once.

    Args:
        languages: The keys.

    Returns:
        The keys.

    Raises:
        LanguageError: If there is none, if one is malformed or comes twice, if two differ only in
            upper and lower case (they would share a folder on some file systems), or if they have
            no order (a set: processes that train together would each take another).

    Example:
        >>> check_languages(["en", "sw"])
        ('en', 'sw')
    """
    if isinstance(languages, str):
        raise LanguageError(
            f"`languages` must be a list of keys. Found the string {languages!r}. Write"
            f" [{languages!r}]."
        )
    if isinstance(languages, (set, frozenset)) or not isinstance(languages, Iterable):
        raise LanguageError(
            "`languages` must be a list of keys, whose order is the same in every process. Found "
            f"{reprlib.repr(languages)} of type `{type(languages).__name__}`. Write for example"
            ' ["en", "sw"].'
        )
    keys = tuple(check_language(language) for language in languages)
    if not keys:
        raise LanguageError(
            '`languages` must name at least one language. Found none. Write for example ["en",'
            ' "sw"].'
        )
    seen: dict[str, str] = {}
    for key in keys:
        if (twin := seen.get(key.lower())) is not None:
            raise LanguageError(
                "Every language must be named once, and languages must differ in more than upper"
                f" and lower case. Found {twin!r} and {key!r} in {list(keys)}. Leave one of them"
                " out or rename it."
            )
        seen[key.lower()] = key
    return keys


def check_known_language(
    language: object, known: Iterable[str], *, what: str = "this model"
) -> str:
    """Return `language` if it is one of `known`, matched by its exact name.

    Args:
        language: The key asked for.
        known: The keys there are.
        what: What has these languages, for the message.

    Returns:
        The same key.

    Raises:
        LanguageError: If it is not among them; the message names those there are and the nearest
            one.

    Example:
        >>> check_known_language("sw", ["en", "sw"])
        'sw'
    """
    key, names = check_language(language), list(known)
    if key in names:
        return key
    by_lower = {name.lower(): name for name in names}
    nearest = difflib.get_close_matches(key.lower(), by_lower, n=1)
    hint = f" Did you mean {by_lower[nearest[0]]!r}?" if nearest else ""
    raise LanguageError(f"The language must be one of {what}: {names}. Found {key!r}.{hint}")


def moved_names(module: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return a module's `__getattr__` that finds names where they live now, with a `DeprecationWarning`.

    Args:
        module: The name of the module that had them.
        homes: Name → the module to import it from.

    Returns:
        The function, as PEP 562 defines it.

    Example:
        >>> import warnings
        >>> find = moved_names("old", {"sqrt": "math"})
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     find("sqrt")(9.0)
        3.0
    """

    def find(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")

        warnings.warn(
            f"`{name}` has moved from `{module}`. Import it from `{homes[name]}`.",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(import_module(homes[name]), name)

    return find
