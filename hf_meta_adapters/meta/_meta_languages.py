"""Whose validation losses count, and how much: the option `meta_languages`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError, check_language

MetaLanguages: TypeAlias = Literal["all", "others"] | Sequence[Language] | Mapping[Language, float]

RULES = ("all", "others")


def named_weights(meta_languages: MetaLanguages) -> dict[Language, float] | None:
    """The weights w_j of the validation losses, if the languages are named; they sum to 1.

    Args:
        meta_languages: The option.

    Returns:
        Language → weight, without those of weight 0; `None` for `"all"` and `"others"`.

    Raises:
        ConfigurationError: If it is malformed.
        LanguageError: If a language key is malformed.
    """
    if isinstance(meta_languages, str):
        if meta_languages not in RULES:
            raise _malformed(meta_languages)
        return None

    if isinstance(meta_languages, Mapping):
        relative = dict(meta_languages)
    elif isinstance(meta_languages, Sequence):
        relative = dict.fromkeys(meta_languages, 1.0)
        if len(relative) < len(meta_languages):
            raise _malformed(meta_languages)
    else:
        raise _malformed(meta_languages)

    for key, weight in relative.items():
        check_language(key)
        if not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            raise _malformed(meta_languages)

    total = sum(relative.values())
    if not total > 0:
        raise _malformed(meta_languages)

    return {key: weight / total for key, weight in relative.items() if weight}


def _malformed(found: object) -> ConfigurationError:
    return ConfigurationError(
        '`meta_languages` must be "all", "others", a list of different languages, or a dict from'
        " language to weight, with finite weights of at least 0 that are not all 0. Found"
        f' {found!r}. Use for example ["sw", "hi"] or {{"sw": 2.0, "hi": 1.0}}.'
    )
