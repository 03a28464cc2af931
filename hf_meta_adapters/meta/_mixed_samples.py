"""Samples that stand for all in the mixed products of a step: of the languages, or of the rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import floor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError


def drawn_languages(languages: Sequence[Language], share: float, seed: int) -> list[Language]:
    """Draw the languages whose mixed products a step takes, each with the probability `share`.

    As many are drawn as the share says, rounded down or up at random if that is no whole number.
    With the factor 1/share, the mean over draws of the mixed product of a language, or of nothing
    where it is not drawn, is its product.

    Args:
        languages: The languages that have a training loss, the same on every process.
        share: The share, over 0 and at most 1.
        seed: The seed of the draw, the same on every process and another one in each step.

    Returns:
        The languages drawn, in their order.
    """
    # Not the stream of the draw of validation languages, of which this one must be independent.
    draw = random.Random(f"mixed languages {seed}")
    count = floor(share * len(languages) + draw.random())

    drawn = draw.sample(range(len(languages)), min(count, len(languages)))
    return [languages[position] for position in sorted(drawn)]


def check_mixed_rows(share: object, *, meta_gradient: str, inner_steps: int) -> None:
    """Check that mixed products of some of the rows can be taken.

    Args:
        share: The share of the rows.
        meta_gradient: The estimator.
        inner_steps: The number of virtual steps.

    Raises:
        ConfigurationError: If they cannot.
    """
    if not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ConfigurationError(
            "`mixed_rows` must be a share of the training rows, over 0 and at most 1. Found"
            f" {share!r}. Use 0.5 for half of them, or let the Trainer choose it as it"
            ' measures: `MetaAdapterTrainingArguments(..., mixed_rows="auto")`.'
        )
    if share == 1:
        return

    for found, is_used in (
        (
            '`meta_gradient="first_order"`, which has no mixed product',
            meta_gradient == "first_order",
        ),
        (
            f"`inner_steps={inner_steps}`, whose products follow one another and would be biased",
            inner_steps > 1,
        ),
    ):
        if is_used:
            raise ConfigurationError(
                "`mixed_rows` under 1 takes the mixed product of a sample of the rows. Found"
                f" {found}. Leave `mixed_rows` out."
            )


def check_mixed_languages(
    share: object, *, meta_gradient: str, indirect_ratio_scope: str | None
) -> None:
    """Check that mixed products of some of the languages can be taken.

    Args:
        share: The share of the languages.
        meta_gradient: The estimator.
        indirect_ratio_scope: Whose indirect parts are held at a size; `None` where none is.

    Raises:
        ConfigurationError: If they cannot.
    """
    if not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ConfigurationError(
            "`mixed_languages` must be a share of the languages of a step, over 0 and at most 1."
            f" Found {share!r}. Use 0.5 for half of them."
        )
    if share == 1:
        return

    for found, is_used in (
        (
            '`meta_gradient="first_order"`, which has no mixed product',
            meta_gradient == "first_order",
        ),
        (
            '`indirect_ratio_scope="language"`, which holds the size of each of them',
            indirect_ratio_scope == "language",
        ),
    ):
        if is_used:
            raise ConfigurationError(
                "`mixed_languages` under 1 leaves the indirect part of some languages out of a"
                f" step. Found {found}. Leave one of the two out."
            )
