"""Bits per character: a score of language models that compares across languages and tokenizers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hf_meta_adapters._typing import IGNORED_LABEL, Language
from hf_meta_adapters.errors import ConfigurationError, NonFiniteLossError
from hf_meta_adapters.evaluation._forward import Feature, run_model, text_logits

__all__ = ["LanguageModelScore", "RowScore", "bits_per_character", "score_rows", "sum_rows"]


@dataclass(frozen=True, eq=False)
class LanguageModelScore:
    """How well a model predicts n texts, text by text.

    Attributes:
        bits: −Σ log₂ p over the scored tokens of each text, shape (n,).
        characters: Characters that these tokens stand for, shape (n,).
        tokens: How many they are, shape (n,).
    """

    bits: NDArray[np.float64]
    characters: NDArray[np.float64]
    tokens: NDArray[np.int64]

    @property
    def bits_per_character(self) -> float:
        """Σ bits / Σ characters over all texts; lower is better."""
        return float(self.bits.sum() / self.characters.sum())

    @property
    def loss(self) -> float:
        """Mean of −ln p over the scored tokens, in nats, as a Trainer reports it."""
        return float(self.bits.sum() * math.log(2) / self.tokens.sum())

    @classmethod
    def of_sums(cls, sums: ArrayLike, language: Language | None = None) -> LanguageModelScore:
        """Return the score of bits, characters and tokens of each text, shape (n, 3).

        Raises:
            NonFiniteLossError: If one of them is NaN or infinite.
        """
        values = np.asarray(sums, dtype=np.float64)
        finite = np.isfinite(values)
        if not finite.all():
            raise NonFiniteLossError(
                f"The loss must be finite. Found {values[~finite][0]} bits for language"
                f" {language!r}. Check whether the model has diverged, or half precision overflows."
            )

        return cls(values[:, 0], values[:, 1], values[:, 2].astype(np.int64))

    def to_dict(self) -> dict[str, float]:
        """Return both scores and what they were measured on."""
        return {
            "bits_per_character": self.bits_per_character,
            "loss": self.loss,
            "characters": float(self.characters.sum()),
            "tokens": int(self.tokens.sum()),
        }


class RowScore(NamedTuple):
    """What one row adds to the score of its text."""

    bits: float
    characters: float
    tokens: int


def bits_per_character(
    model: nn.Module,
    features: Sequence[Feature],
    language: Language | None = None,
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> LanguageModelScore:
    """Compute Σ −log₂ p(target) / Σ characters(target) over the scored tokens of `features`.

    Unlike a loss per token, it does not fall when a tokenizer cuts words into more pieces. For a
    masked language model it is a pseudo-likelihood over the masked tokens, so it compares masked
    models with one another, not with causal ones.

    Args:
        model: A masked or causal language model; its logits have shape (B, T, V).
        features: Rows of `masked_lm_features` or of `causal_lm_features`.
        language: The language of the rows; the model is routed to it where it has `use_language`.
        batch_size: Rows per pass.
        progress: Show a progress bar.

    Returns:
        The score, and its parts for each text (0 for a text without a scored token).

    Raises:
        NonFiniteLossError: If the model's logits give NaN or infinity.

    Example:
        >>> from types import SimpleNamespace
        >>> class Uniform(nn.Module):
        ...     def forward(self, input_ids, attention_mask):
        ...         return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 8))
        >>> row = {"input_ids": [3, 1, 5], "attention_mask": [1, 1, 1], "targets": [-100, 4, -100]}
        >>> features = [{"example": 0, "characters": [0.0, 6.0, 0.0], **row}]
        >>> score = bits_per_character(Uniform(), features)
        >>> round(score.bits_per_character, 6)  # log₂ 8 = 3 bits for 6 characters
        0.5
    """
    rows = run_model(
        model, features, score_rows, language=language, batch_size=batch_size, progress=progress
    )

    # A text without a row is counted too, as long as it is not the last.
    texts = 1 + max(feature["example"] for feature in features)
    return LanguageModelScore.of_sums(sum_rows(features, rows, texts), language)


def sum_rows(
    features: Sequence[Feature], rows: Sequence[RowScore], texts: int
) -> NDArray[np.float64]:
    """Return bits, characters and tokens of each text, shape (texts, 3), from its windows."""
    sums = np.zeros((texts, 3))

    # Unlike `sums[texts] += rows`, this adds up the rows of one text.
    np.add.at(sums, [feature["example"] for feature in features], np.array(rows))
    return sums


def score_rows(rows: Sequence[Feature], output: object) -> list[RowScore]:
    """Return bits, characters and tokens of each row of a batch."""
    logits = text_logits(output, "logits", 3, rows)  # (B, T, V)
    targets = _targets(rows, logits)  # (B, T)

    # On a GPU, cross entropy would fail without naming the token, and leave the device unusable.
    if targets.max() >= logits.shape[-1]:
        raise ConfigurationError(
            "A language model must predict every token of the tokenizer. Found logits over"
            f" {logits.shape[-1]} classes and the token {int(targets.max())}. Load the model by"
            " `AutoModelForMaskedLM` or `AutoModelForCausalLM`, with its own tokenizer."
        )

    # The softmax of the scored places alone, in float32: that of all places would need several
    # times the memory of the logits. Sums are in float64, since a text may have many tokens.
    scored = targets != IGNORED_LABEL
    losses = torch.zeros(targets.shape, dtype=torch.float64, device=logits.device)
    losses[scored] = cross_entropy(
        logits[scored].float(), targets[scored], reduction="none"
    ).double()

    bits = (losses.sum(1) / math.log(2)).tolist()
    tokens = scored.sum(1).tolist()

    scores = []
    for row, row_bits, row_tokens in zip(rows, bits, tokens, strict=True):
        scores.append(RowScore(row_bits, sum(row["characters"]), row_tokens))

    return scores


def _targets(rows: Sequence[Feature], logits: Tensor) -> Tensor:
    """Return the targets of the rows, padded to the shape (B, T) of the logits."""
    targets = torch.full(logits.shape[:2], IGNORED_LABEL, device="cpu")
    for index, row in enumerate(rows):
        targets[index, : len(row["targets"])] = torch.tensor(row["targets"])

    # all rows in one transfer
    return targets.to(logits.device)
