"""The language that a base model itself asks for: Whisper's `generate(language=...)`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import LanguageError
from hf_meta_adapters.modeling._router import Router

_OWN = "language"
"""The name of the argument, which is ours as well."""

_CHOICE = "base_language"
_SHOWN = 8


def with_base_language(
    router: Router,
    language: Language | None,
    inputs: Mapping[str, Any],
    rows: Sequence[int] | None = None,
) -> dict[str, Any]:
    """The arguments of a base model's `generate`, with the language that it begins a text with.

    A key that the base knows is both: it routes the adapter, and is the base's own language.

    Args:
        router: The router.
        language: The key that was named; `None` for the one that is set.
        inputs: The keyword arguments. `base_language` among them is a value for the base model in
            place of the key, or `None` for the base's default.
        rows: The numbers of the rows of the batch that run, if not all do.

    Returns:
        The keyword arguments for the base model.

    Raises:
        LanguageError: If the base model has languages, but not the one that was named.
    """
    if not _takes_a_language(router.backend.base):
        return dict(inputs)  # `base_language` is then refused as any unknown argument

    arguments = dict(inputs)
    if _CHOICE in arguments:
        own = arguments.pop(_CHOICE)
        if rows is not None and isinstance(own, (list, tuple)):
            own = [own[row] for row in rows]  # one for each row of the batch
    else:
        own = _known_language(router, language, inputs)

    if own is not None:
        arguments[_OWN] = own
    return arguments


def _takes_a_language(base: Any) -> bool:
    generate = getattr(base, "generate", None)
    return generate is not None and _OWN in inspect.signature(generate).parameters


def _known_language(
    router: Router, language: Language | None, inputs: Mapping[str, Any]
) -> Language | None:
    """The key of the pass, if the base knows it; `None` for the base's default."""
    settings = inputs.get("generation_config") or router.backend.base.generation_config
    is_multilingual = inputs.get("is_multilingual")
    if is_multilingual is None:
        is_multilingual = getattr(settings, "is_multilingual", True)

    # An English-only model refuses any language, and one without a table knows none.
    tokens = getattr(settings, "lang_to_id", None)
    if not tokens or not is_multilingual:
        return None

    key = language or router.language
    if key is None and len(router.languages) == 1:
        key = router.languages[0]
    if key is None or f"<|{key}|>" in tokens:
        return key

    if language is None:
        return None  # only an adapter was chosen, beforehand

    known = [token.strip("<|>") for token in tokens]
    raise LanguageError(
        f"`language` in `generate` must be a language of the base model as well, here one of"
        f" {known[:_SHOWN]}{' and others' if len(known) > _SHOWN else ''}: the text begins with it."
        f" Found {language!r}. Pass `{_CHOICE}=` as well: a language of the base, such as"
        f' "{known[0]}", or `None` for its default.'
    )
