"""The parameters of a new language as a weighted mean of those of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends import Backend
from hf_meta_adapters.backends.abilities import ChecksMeans
from hf_meta_adapters.errors import (
    ConfigurationError,
    LanguageError,
    check_known_language,
    check_language,
)

_TOLERANCE = 1e-6
_MEAN = "mean"


def check_new_language(language: Language, known: Sequence[Language]) -> None:
    """Refuse a key that is malformed, taken, or differs from a known one by letter case only.

    Raises:
        LanguageError: In each of these cases.
    """
    check_language(language)

    # they would share a folder on some file systems; `map`, because there may be thousands
    if language.lower() in map(str.lower, known):
        twin = next(key for key in known if key.lower() == language.lower())
        raise LanguageError(
            "A new language must differ from the others by more than letter case. Found"
            f" {language!r} next to {twin!r}. Choose another key."
        )


def check_mixture(
    copy_from: Language | Mapping[Language, float] | None,
    known: Sequence[Language],
    backend: Backend | None = None,
) -> dict[Language, float]:
    """The weight of every language that a new one starts from; none for a fresh start.

    Args:
        copy_from: A language, "mean" for all languages alike, or the weights of several.
        known: The languages of the model.
        backend: Its backend, which may refuse means of several languages.

    Returns:
        language → weight.

    Raises:
        LanguageError: If a language is unknown.
        ConfigurationError: If weights are not positive numbers whose sum is 1 within 1e-6.

    Example:
        >>> check_mixture({"sw": 0.6, "en": 0.4}, ["en", "sw"])
        {'sw': 0.6, 'en': 0.4}
        >>> check_mixture("mean", ["en", "sw"])
        {'en': 0.5, 'sw': 0.5}
    """
    if copy_from is None:
        return {}

    if copy_from == _MEAN and _MEAN not in known and known:
        copy_from = dict.fromkeys(known, 1 / len(known))

    if not isinstance(copy_from, Mapping):
        return {check_known_language(copy_from, known): 1.0}

    weights = {check_known_language(key, known): weight for key, weight in copy_from.items()}
    are_positive = all(_is_positive(weight) for weight in weights.values())

    # without any weight the sum is 0; NaN is not positive
    if not are_positive or abs(sum(weights.values()) - 1) > _TOLERANCE:
        raise ConfigurationError(
            f"The weights of `copy_from` must be positive and sum to 1 within {_TOLERANCE}. Found"
            f' {dict(copy_from)}. Use for example {{"sw": 0.6, "en": 0.4}}.'
        )

    if len(weights) > 1 and isinstance(backend, ChecksMeans):
        backend.check_mean()
    return weights


@torch.no_grad()
def mix_(
    target: Mapping[str, Tensor], sources: Sequence[Mapping[str, Tensor]], weights: Sequence[float]
) -> None:
    """Set φ_new = Σ_l w_l φ_l in place, tensor by tensor; a bitwise copy of a single source.

    Tensors that are not floating-point have no mean and are copied from the first source.

    Args:
        target: The tensors of the new language, by name.
        sources: Those of each language it starts from, of the same shapes in the same order.
        weights: The weight of each language.
    """
    several = [tensors.values() for tensors in (target, *sources)]
    for new, *olds in zip(*several, strict=True):
        first = olds[0]

        if len(olds) == 1 or not first.is_floating_point():
            new.data = first.data.clone()
            continue

        # in half precision the rounding of each term would add up
        exact = torch.promote_types(first.dtype, torch.float32)
        terms = [weight * old.to(exact) for weight, old in zip(weights, olds, strict=True)]
        new.data = torch.stack(terms).sum(0).to(first.dtype)


def _is_positive(weight: object) -> bool:
    # to Python, `True` is the integer 1
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        return False
    return weight > 0
