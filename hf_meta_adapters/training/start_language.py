"""A new language from the start of one's choice: fresh, a mean, the nearest, or by Reptile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from torch.utils.data import DataLoader

from hf_meta_adapters._typing import JsonObject, Keywords, Language, Rows
from hf_meta_adapters.errors import (
    ConfigurationError,
    DataError,
    LanguageError,
    check_language,
)
from hf_meta_adapters.evaluation.languages_by_gradient import languages_by_gradient
from hf_meta_adapters.evaluation.nearest_languages import nearest_languages
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.training.default_collator import get_data_collator
from hf_meta_adapters.training.reptile_start import REPTILE_START, add_reptile_start

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["LanguageStart", "start_language"]

Family: TypeAlias = Mapping[Language, Rows]

INITS = ("fresh", "mean", "nearest", "gradient", "reptile")
_MOST_TOKENS = 512


@dataclass(frozen=True)
class LanguageStart:
    """What a new language started from.

    Attributes:
        language: The new language.
        init: What was asked for.
        weights: Language → weight of its φ; empty for a fresh adapter.
        measured: Language → score (`"nearest"`) or cosine (`"gradient"`), the best first; what was
            measured for other starts is empty.
    """

    language: Language
    init: str | dict[Language, float]
    weights: dict[Language, float]
    measured: dict[Language, float] = field(default_factory=dict)

    def to_dict(self) -> JsonObject:
        """Return the attributes by name."""
        return asdict(self)


def start_language(
    model: LanguageAdapterModel,
    language: Language,
    init: str | Mapping[Language, float] = "fresh",
    *,
    task: str = "masked_lm",
    dataset: Rows | None = None,
    family: Family | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
    max_length: int | None = None,
    batch_size: int = 8,
    reptile: Keywords | None = None,
) -> LanguageStart:
    """Add a language to a model, φ_new = Σ_l w_l φ_l, with the weights of a start; tell which.

    - `"fresh"`: a new adapter.
    - `"mean"`: all languages alike, without `"x-reptile"`.
    - `"nearest"`: the one whose adapter scores `dataset` best, see `nearest_languages`.
    - `"gradient"`: the one whose gradient agrees best, see `languages_by_gradient`.
    - `"reptile"`: a start that was trained for it, see `add_reptile_start`. It stays in the model
      as `"x-reptile"`, for further languages, and is trained if it is not there.
    - a language of the model, or weights of several, as for `add_language`.

    Args:
        model: The model.
        language: The new language.
        init: The start. No measurement shows that one which costs nothing is better than a fresh
            adapter; one by Reptile was (docs/how-to/add_a_language.md has the numbers).
        task: `"masked_lm"` or `"causal_lm"`, for `"nearest"` and `"gradient"`.
        dataset: Texts of the new language (a column `text`), for the same.
        family: Language → texts of it, for `"gradient"`, and to train the start of `"reptile"`.
        processing_class: The tokenizer; by default, but for `"reptile"`, the one that was saved
            with the model.
        max_length: Tokens in a row; by default what the tokenizer allows, at most 512.
        batch_size: Rows in a pass with gradients.
        reptile: Further arguments of `add_reptile_start`, such as `{"rounds": 100}`.

    Returns:
        What the language started from.

    Raises:
        LanguageError: If the key is malformed or taken, or a language to start from is unknown.
        ConfigurationError: If there is no such start, or it needs texts that are not given.
        DataError: If texts are empty or cannot be read.

    Example:
        >>> from hf_meta_adapters.training.start_language import start_language
        >>> def grow(model, rows, tokenizer):
        ...     start = start_language(
        ...         model, "yo", "nearest", dataset=rows, processing_class=tokenizer
        ...     )
        ...     print(start.weights)
    """
    _check_key(model, language)
    _check_init(model, init)
    texts: dict[str, Any] = {"processing_class": processing_class, "max_length": max_length}
    measured: dict[Language, float] = {}
    weights: dict[Language, float] = {}

    if not isinstance(init, str):
        weights = dict(init)
    elif init in model.languages:
        # a language of the model may have the name of a start
        weights = {init: 1.0}
    elif init == "mean":
        # where only the start was loaded, it is all that there is
        known = [key for key in model.languages if key != REPTILE_START] or [REPTILE_START]
        weights = dict.fromkeys(known, 1 / len(known))
    elif init == "reptile":
        if REPTILE_START not in model.languages:
            loaders = _loaders(model, _given(family, "family", init), batch_size, **texts)
            add_reptile_start(model, loaders, **(reptile or {}))
        weights = {REPTILE_START: 1.0}
    elif init in ("nearest", "gradient"):
        rows = _given(dataset, "dataset", init)
        if init == "nearest":
            measured = nearest_languages(model, task, rows, **texts)
        else:
            others = _given(family, "family", init)
            measured = languages_by_gradient(
                model, task, rows, others, batch_size=batch_size, **texts
            )
        if len(measured) > 1:
            measured.pop(REPTILE_START, None)
        weights = {next(iter(measured)): 1.0}

    model.add_language(language, copy_from=weights or None)
    return LanguageStart(language, init if isinstance(init, str) else weights, weights, measured)


def _loaders(
    model: LanguageAdapterModel,
    family: Family,
    batch_size: int,
    *,
    processing_class: PreTrainedTokenizerBase | None,
    max_length: int | None,
) -> dict[Language, DataLoader[Any]]:
    """Batches of the texts of each language, with the labels that such a model is trained on."""
    tokenizer: PreTrainedTokenizerBase = _given(processing_class, "processing_class", "reptile")
    collator = get_data_collator(model, tokenizer)
    limit = max_length or min(tokenizer.model_max_length, _MOST_TOKENS)

    loaders: dict[Language, DataLoader[Any]] = {}
    for language, rows in family.items():
        if not len(rows) or "text" not in rows[0]:
            raise DataError(
                f"A start is trained on texts. Found, for {language!r}, {len(rows)} rows and no"
                " column 'text'. Rename the column, or leave the language out."
            )
        tokens = tokenizer([row["text"] for row in rows], truncation=True, max_length=limit)
        encoded: Any = [{"input_ids": ids} for ids in tokens["input_ids"]]

        # what it draws is that of the seed of `add_reptile_start`
        loaders[language] = DataLoader(
            encoded,
            batch_size,
            shuffle=True,
            drop_last=len(encoded) > batch_size,
            collate_fn=collator,
        )
    return loaders


def _given(value: Any, name: str, init: str) -> Any:
    if value is None:
        raise ConfigurationError(
            f"The start {init!r} is found by texts. Found no `{name}`. Pass it, or use for example"
            ' "mean".'
        )
    return value


def _check_key(model: LanguageAdapterModel, language: Language) -> None:
    """Refuse a key that `add_language` would refuse, before anything is measured or trained."""
    check_language(language)
    if language in model.languages:
        raise LanguageError(
            f"A new language must not be one of the model. Found {language!r} in"
            f" {list(model.languages)}. Choose another key."
        )


def _check_init(model: LanguageAdapterModel, init: str | Mapping[Language, float]) -> None:
    if isinstance(init, str) and init not in (*INITS, *model.languages):
        raise ConfigurationError(
            f"`init` must be one of {list(INITS)}, a language of the model"
            f" ({list(model.languages)}), or weights of several. Found {init!r}. Use for example"
            ' "mean".'
        )
