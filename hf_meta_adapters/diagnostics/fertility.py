"""How finely a tokenizer cuts each language."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.results.plots import plot_intervals
from hf_meta_adapters.results.tables import format_number, markdown_table, none_if_nan

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

__all__ = ["Fertility", "FertilityReport", "TextTokenizer", "tokenizer_fertility"]

_MUCH_UNKNOWN = 0.005
_MANY_CHARACTERS = 0.5
_MANY_MORE = 2.0
"""From where on a language gets advice; `FertilityReport.advice` says what each is a share of."""

_LONGEST_WORD = 20.0
"""Characters between two spaces, on average, above which a text is not written in words."""


class TextTokenizer(Protocol):
    """A fast tokenizer of transformers, as far as this module calls it."""

    is_fast: bool
    unk_token_id: int | None

    def __call__(self, text: str, **options: bool) -> Mapping[str, list[Any]]:
        """Return `input_ids`, and `offset_mapping` on request."""


@dataclass(frozen=True)
class Fertility:
    """How a tokenizer cuts the text of one language.

    Attributes:
        language: The language.
        tokens: The number of tokens.
        characters: The number of characters that are no spaces.
        words: The number of words, which are what stands between spaces.
        unknown: Share of tokens that stand for no text in particular.
        single_characters: Share of tokens that are one character, or a part of one.
    """

    language: Language
    tokens: int
    characters: int
    words: int
    unknown: float
    single_characters: float

    @property
    def per_character(self) -> float:
        """Tokens per character."""
        return self.tokens / self.characters

    @property
    def per_word(self) -> float:
        """Tokens per word; NaN for a text without spaces between words, as in Thai or Chinese."""
        if self.characters / self.words > _LONGEST_WORD:
            return math.nan
        return self.tokens / self.words


@dataclass(frozen=True)
class FertilityReport:
    """How a tokenizer cuts each language, and what that asks for.

    Attributes:
        rows: One for each language.
    """

    rows: tuple[Fertility, ...]

    @property
    def languages(self) -> tuple[Language, ...]:
        """The languages."""
        return tuple(row.language for row in self.rows)

    def advice(self) -> tuple[str, ...]:
        """Return what to do, a sentence for each language that the tokenizer serves badly.

        A language is named where over 0.5 % of its tokens are unknown, where more than half of them
        are single characters, or where it has more than twice as many tokens per character as
        the language that has fewest.
        """
        least = min(row.per_character for row in self.rows)
        sentences = []
        for row in self.rows:
            found = _complaints(row, row.per_character / least)
            if found:
                sentences.append(
                    f"{row.language}: {'; '.join(found)}. Add pieces of this language to the"
                    " vocabulary (`extend_vocabulary`), or use a model whose tokenizer knows it."
                )
        return tuple(sentences)

    def to_dict(self) -> dict[str, object]:
        """Return the result as strings, numbers, lists and dicts for JSON, with `None` for NaN."""
        rows = [
            asdict(row)
            | {"per_word": none_if_nan(row.per_word), "per_character": row.per_character}
            for row in self.rows
        ]
        return {"rows": rows, "advice": list(self.advice())}

    def to_markdown(self) -> str:
        """Return a Markdown table, and the advice."""
        header = ["language", "tokens per word", "tokens per character", "unknown", "one character"]
        lines = [
            [
                row.language,
                format_number(row.per_word, 2),
                format_number(row.per_character, 2),
                f"{row.unknown:.1%}",
                f"{row.single_characters:.0%}",
            ]
            for row in self.rows
        ]
        caption = (
            "Unknown: share of tokens that the tokenizer has no piece for. One character: share of"
            " tokens that are a single character or less. No tokens per word where words are not"
            " separated by spaces."
        )
        return "\n\n".join([markdown_table(header, lines), caption, *self.advice()])

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the tokens per character as bars.

        Args:
            path: The file to write the picture to; its suffix determines the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
        bars = [(row.per_character, math.nan, math.nan) for row in self.rows]
        return plot_intervals(
            {"": bars},
            self.languages,
            title="How finely the tokenizer cuts each language",
            ylabel="tokens per character\n(lower: fewer tokens for the same text)",
            path=path,
            ax=ax,
        )


def tokenizer_fertility(
    tokenizer: TextTokenizer, texts: Mapping[Language, Iterable[str]]
) -> FertilityReport:
    """Count the tokens per word and per character of each language.

    Called fertility in the literature (Rust et al., ACL 2021), it says how much of a context
    window and of a training budget a language costs. Compare languages on the same content, such as
    parallel text, where you have it.

    Args:
        tokenizer: A fast tokenizer of transformers.
        texts: Language → its texts.

    Returns:
        The counts, and advice.

    Raises:
        ConfigurationError: If the tokenizer is not a fast one.
        DataError: If a language has no text.

    Example:
        >>> from tokenizers import Tokenizer
        >>> from tokenizers.models import WordLevel
        >>> from tokenizers.pre_tokenizers import Whitespace
        >>> from transformers import PreTrainedTokenizerFast
        >>> words = Tokenizer(WordLevel({"habari": 0, "[UNK]": 1}, unk_token="[UNK]"))
        >>> words.pre_tokenizer = Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
        >>> row, = tokenizer_fertility(tokenizer, {"sw": ["habari gani"]}).rows
        >>> row.per_word, row.unknown
        (1.0, 0.5)
    """
    if not tokenizer.is_fast:
        raise ConfigurationError(
            "The tokenizer must say which characters a token stands for, as fast ones do. Found a"
            f" slow one, `{type(tokenizer).__name__}`. Load it with"
            " `AutoTokenizer.from_pretrained(name)`, which prefers fast ones."
        )

    return FertilityReport(
        tuple(_count(tokenizer, language, several) for language, several in texts.items())
    )


def _count(tokenizer: TextTokenizer, language: Language, texts: Iterable[str]) -> Fertility:
    tokens = characters = words = unknown = single = 0
    for text in texts:
        encoded = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        tokens += len(encoded["input_ids"])
        characters += sum(len(word) for word in text.split())
        words += len(text.split())
        unknown += encoded["input_ids"].count(tokenizer.unk_token_id)
        single += sum(_length(text, span) < 2 for span in encoded["offset_mapping"])

    if not characters or not tokens:
        raise DataError(
            "Every language must have text, to count its tokens. Found none of"
            f" {language!r}. Give it some, or leave the language out."
        )
    return Fertility(language, tokens, characters, words, unknown / tokens, single / tokens)


def _length(text: str, span: tuple[int, int]) -> int:
    """The characters of a token, without the space that many tokenizers count to it."""
    start, end = span
    return len(text[start:end].strip())


def _complaints(row: Fertility, ratio: float) -> list[str]:
    found = []
    if row.unknown > _MUCH_UNKNOWN:
        found.append(f"{row.unknown:.1%} of its tokens are unknown, and their text is lost")
    if row.single_characters > _MANY_CHARACTERS:
        found.append(f"{row.single_characters:.0%} of its tokens are single characters")
    if ratio > _MANY_MORE:
        found.append(f"{ratio:.1f} times as many tokens per character as the language with fewest")
    return found
