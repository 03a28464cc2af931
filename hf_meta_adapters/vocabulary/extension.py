"""What a vocabulary was extended by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from hf_meta_adapters.results.tables import format_number, markdown_table

__all__ = ["VocabularyExtension"]


@dataclass(frozen=True)
class VocabularyExtension:
    """The pieces that a tokenizer and a model were given.

    Attributes:
        pieces: The pieces, as they stand in the vocabulary.
        ids: Their identifiers, which follow those that were there.
        tokens_before: The tokens of the texts in the old vocabulary, without special tokens.
        tokens_after: The tokens of the same texts in the new one.
        token_indices: Module with rows of the vocabulary → the new rows: the value of
            `trainable_token_indices` in a `LoraConfig` that trains no other rows. Tied output
            embeddings follow the input embeddings and are not named.
    """

    pieces: tuple[str, ...]
    ids: tuple[int, ...]
    tokens_before: int
    tokens_after: int
    token_indices: Mapping[str, list[int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return the result as strings, numbers, lists and dicts for JSON."""
        content = asdict(self)
        return {**content, "pieces": list(self.pieces), "ids": list(self.ids)}

    def to_markdown(self) -> str:
        """Return a Markdown table."""
        saved = 1 - self.tokens_after / self.tokens_before
        row = [
            str(len(self.pieces)),
            str(self.tokens_before),
            str(self.tokens_after),
            f"{format_number(100 * saved, 1)} %",
        ]
        return markdown_table(["new pieces", "tokens before", "tokens after", "saved"], [row])
