"""One answer in a verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

from hf_meta_adapters._typing import Language

__all__ = ["Answer", "Finding", "Question"]

Question: TypeAlias = Literal["interference", "conflict", "masks"]
"""What a finding is about: lost scores, opposed gradients, or weights of single languages."""

Answer: TypeAlias = Literal["shown", "not shown", "unclear", "not measured"]
"""Shown: beyond chance. Not shown: chance explains all of it. Unclear: the text is too little, or
the noise too large, for either.
"""


@dataclass(frozen=True)
class Finding:
    """What one measure says, told apart from noise.

    Attributes:
        question: What was asked.
        answer: Whether it was shown.
        text: The answer in words, with its numbers.
        languages: The languages for which it was shown, or of which it was shown that they gain.
        pairs: The pairs of languages for which it was shown.
        layers: The layers in which it was shown.
    """

    question: Question
    answer: Answer
    text: str
    languages: tuple[Language, ...] = ()
    pairs: tuple[tuple[Language, Language], ...] = ()
    layers: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return the finding as strings, lists and dicts for JSON."""
        found = asdict(self)
        found["languages"], found["layers"] = list(self.languages), list(self.layers)
        found["pairs"] = [list(pair) for pair in self.pairs]
        return found
