"""Batches with rows in several languages: one pass if the method can, else a pass per language."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from hf_meta_adapters._typing import Language, RowLanguages
from hf_meta_adapters.backends.rows import (
    check_row_count,
    count_rows,
    put_texts_together,
    put_together,
    rows_by_language,
    take_rows,
)
from hf_meta_adapters.errors import ConfigurationError, check_known_language
from hf_meta_adapters.modeling._base_language import with_base_language
from hf_meta_adapters.modeling._router import Router


def by_name(
    base: nn.Module,
    args: tuple[object, ...],
    language: RowLanguages | None,
    inputs: dict[str, object],
) -> tuple[RowLanguages | None, dict[str, object]]:
    """The language of a pass, and all inputs by the names that the base has for them.

    Args:
        base: The base model.
        args: What was passed by position: perhaps a language, or one for each row, and inputs.
        language: What was passed as the language by name.
        inputs: The inputs that were passed by name.

    Raises:
        ConfigurationError: If an input comes twice, or there are more than the base has.
    """
    if not args:
        return language, inputs

    first = args[0]
    is_language = first is None or isinstance(first, str)
    if isinstance(first, (list, tuple)):
        is_language = all(isinstance(key, str) for key in first)
    if is_language and language is None:
        language, args = cast("RowLanguages | None", first), args[1:]

    forward = inspect.signature(base.forward)
    try:
        named = forward.bind_partial(*args, **inputs)
    except TypeError as error:
        raise ConfigurationError(
            "Inputs by position must be those of the base model, in its order:"
            f" {list(forward.parameters)}. Found {len(args)} by position, {list(inputs)} by name:"
            f' {error}. Pass them by name, as in `model(language="en", input_ids=...)`.'
        ) from error

    # what the base collects under names of its own comes last
    positional = list(forward.parameters)[: len(args)]
    return language, {**{name: named.arguments[name] for name in positional}, **inputs}


def forward_rows(
    router: Router,
    module: nn.Module,
    languages: Sequence[Language],
    inputs: Mapping[str, object],
) -> object:
    """Run a model with each row of the batch in a language of its own.

    Args:
        router: The router.
        module: The model, or the wrapper that the backend put around it.
        languages: The language of each row.
        inputs: The inputs of the base model.

    Returns:
        What the base model returns.

    Raises:
        LanguageError: If a language is unknown.
        ConfigurationError: If the rows cannot run, or are not as many as the languages.
    """
    languages = [check_known_language(key, router.languages) for key in languages]
    check_row_count(languages, count_rows(inputs, _main_input(router.backend.base)))

    groups = rows_by_language(languages)

    # without a choice between adapters nothing is to be routed, and no restriction applies
    if len(groups) == 1 or not router.tells_languages_apart:
        with router.running_in(languages[0]):
            return module(**inputs)

    routing = router.routing(languages)
    if routing is None:
        if module.training:
            raise _no_common_pass(groups, ".")
        return _pass_per_language(router, module, groups, inputs)

    try:
        with router.running_rows_in(languages, routing):
            return module(**inputs)

    except ConfigurationError:
        raise  # a `ValueError` as well, but one that explains itself

    except ValueError as error:
        # a layer of PEFT whose input does not have an entry for each row, such as a table
        if module.training:
            reason = f", for which a layer of PEFT raises: {error}"
            raise _no_common_pass(groups, reason) from error

    return _pass_per_language(router, module, groups, inputs)


def generate_rows(
    router: Router,
    model: Any,
    languages: Sequence[Language],
    args: tuple[object, ...],
    inputs: Mapping[str, object],
) -> Tensor:
    """Generate text with each row of the batch in a language of its own, those of one together.

    Args:
        router: The router.
        model: What has the method `generate`.
        languages: The language of each row.
        args: The positional arguments of `generate`.
        inputs: Its keyword arguments.

    Returns:
        The texts in the order of the rows, shorter ones padded at the end.

    Raises:
        LanguageError: If a language is unknown, also to a base that has languages of its own.
        ConfigurationError: If rows are not as many as the languages, or more than texts is asked
            for.
    """
    languages = [check_known_language(key, router.languages) for key in languages]
    count = len(languages)
    everything: dict[Any, object] = {**dict(enumerate(args)), **inputs}
    check_row_count(languages, count_rows(everything, _main_input(router.backend.base)))

    # Always a pass for each language: `generate` calls the model in ways that no routing of rows
    # foresees, such as with beams or with candidates of another length.
    groups, texts = rows_by_language(languages), []
    of_groups = [
        with_base_language(router, language, inputs, rows) for language, rows in groups.items()
    ]
    for (language, rows), given in zip(groups.items(), of_groups, strict=True):
        with router.running_in(language):
            part = model.generate(*take_rows(args, rows, count), **take_rows(given, rows, count))

        if not isinstance(part, Tensor):
            raise ConfigurationError(
                "Texts in several languages are generated as one tensor. Found a"
                f" `{type(part).__name__}`. Leave `return_dict_in_generate` out, or generate"
                " one language at a time."
            )
        texts.append(part)  # (texts of the part, tokens)

    settings: Any = router.backend.base.generation_config
    padding: Any = inputs.get("pad_token_id", settings.pad_token_id)
    if padding is None:
        padding = settings.eos_token_id

    return put_texts_together(texts, list(groups.values()), padding)


def _pass_per_language(
    router: Router,
    module: nn.Module,
    groups: Mapping[Language, Sequence[int]],
    inputs: Mapping[str, object],
) -> object:
    """The output of a batch from one pass for each language."""
    forward = inspect.signature(router.backend.base.forward)
    if "use_cache" in forward.parameters:
        # caches cannot be put together: off by default, and refused where the user asks for one
        inputs = {"use_cache": False, **inputs}

    count, outputs = sum(map(len, groups.values())), []
    for language, rows in groups.items():
        with router.running_in(language):
            outputs.append(module(**take_rows(inputs, rows, count)))

    return put_together(outputs, list(groups.values()))


def _main_input(model: nn.Module) -> str:
    """The name of a model's main input, which transformers records in the class."""
    return getattr(model, "main_input_name", "input_ids")


def _no_common_pass(languages: Iterable[Language], reason: str) -> ConfigurationError:
    return ConfigurationError(
        "Rows of several languages can share a batch in training only if the method runs them in"
        f" one pass: bottleneck adapters, LoRA. Found {list(languages)} in one batch{reason}"
        " Call `model.eval()`, or train with batches of one language (`languages_per_pass=1`)."
    )
