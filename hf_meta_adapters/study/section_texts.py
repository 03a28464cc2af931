"""What a section of the report of a diagnosis shows, in words that need no other page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["SECTION_TEXTS"]

SECTION_TEXTS: Final[Mapping[str, str]] = {
    "scores": (
        "How well the model predicts each language. Bits per character: what all predicted tokens"
        " cost in bits, divided by their characters, so that languages and tokenizers can be"
        " compared. Loss: the same per token, in nats, as in training. Both: lower is better."
    ),
    "tokenizer": (
        "How finely the tokenizer cuts each language. A language of many tokens per character fills"
        " a context window with less text and costs more to train. Compare languages on the same"
        " content, such as parallel text, where you have it."
    ),
    "interference": (
        "What joint training costs: bits per character of this model minus those of a model of the"
        " language alone, on the same texts. Above 0, joint training is worse. Intervals cover the"
        " choice of texts; another training run may differ by more. Whether both models saw as"
        " much text is not known here."
    ),
    "references": (
        "How well this model predicts each language beside a model of that language alone, on the"
        " same texts, in bits per character. The reference was trained on other text, has another"
        " tokenizer and another size: a difference tells how well a language is served, and not"
        " what joint training costs it. Above 0, the reference predicts the text better."
    ),
    "conflict": (
        "The gradient of a language is the direction in which training on it would move the shared"
        " weights. Cosine 1: two languages pull the same way. 0: they do not affect each other."
        " Below 0: what helps one harms the other. Noise moves all cosines towards 0, so compare an"
        " entry with the diagonal, which compares different texts of one language. In brackets and"
        " as bands: 95 % intervals. The layer called other is what has no number, such as the last"
        " norm and the head."
    ),
    "masks": (
        "A mask keeps the weights that a language needs most and removes the others. Overlap: what"
        " share of the weights that one of two masks keeps, both keep (Jaccard). The diagonal has"
        " two masks of one language that differ in their random numbers only: languages need"
        " weights of their own only as far as they overlap less than that."
    ),
    "plan": (
        "The layers in which languages differ most. Conflict: how far the cosine between languages"
        " falls short of that within them. Specificity: how far masks of two languages overlap less"
        " than two masks of one. Such a list exists for every model, so it matters only if the"
        " verdict above has found a difference."
    ),
}
"""Name of a section → its text."""
