"""Tagging of words: from words to subwords and back, for every set of tags."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hf_meta_adapters._typing import IGNORED_LABEL, Language, Rows
from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.evaluation._columns import column, label_column
from hf_meta_adapters.evaluation._forward import Feature, text_logits
from hf_meta_adapters.evaluation._split_words import warn_if_cut_otherwise
from hf_meta_adapters.evaluation._windows import length_limit, windows
from hf_meta_adapters.evaluation.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenClassification", "flatten"]


class TokenClassification(Task):
    """One tag for each word, read from the logits of its first subword.

    No word is lost: a sentence that is too long is cut between words into windows that overlap, and
    each word is labelled and scored in the window with most context for it. A word that the
    tokenizer drops entirely is predicted as `unseen`.

    The examples have a column `tokens` and one of `tag_columns`.

    Attributes:
        overlap: Tokens at most that neighbouring windows share.
        tag_columns: The names that the column of tags may have.
        unseen: The label of a word without any subword.
    """

    overlap: ClassVar[int] = 32
    tag_columns: ClassVar[Sequence[str]]
    unseen: ClassVar[str]

    @abstractmethod
    def label(self, tag: str) -> str | None:
        """Return the label for a tag of the data, or `None` if words with it are not scored."""

    def references(self, dataset: Rows, language: Language) -> list[list[str | None]]:
        """Return the label of each word.

        Args:
            dataset: The examples.
            language: Their language, for the messages.

        Returns:
            One list for each example, as long as its words.

        Raises:
            DataError: If an example has more or fewer tags than words.
        """
        sentences = column(dataset, ["tokens"], language)
        references = []
        for example, tags in enumerate(label_column(dataset, self.tag_columns, language)):
            words = sentences[example]
            if len(words) != len(tags):
                raise DataError(
                    f"An example must have one tag for each word. Found {len(words)} words and"
                    f" {len(tags)} tags in example {example} of language {language!r}. Correct or"
                    " remove the example."
                )
            references.append([self.label(tag) for tag in tags])

        return references

    def features(
        self,
        dataset: Rows,
        tokenizer: PreTrainedTokenizerBase,
        *,
        language: Language,
        max_length: int | None = None,
    ) -> list[Feature]:
        """Return windows with `labels` at first subwords, −100 elsewhere, and their `words`.

        An item of `words` is the place of a first subword in the row and the number of its word in
        the sentence.
        """
        if not tokenizer.is_fast:
            raise ConfigurationError(
                "Only a fast tokenizer can align words with subwords. Found"
                f" `{type(tokenizer).__name__}`. Load the tokenizer by"
                " `AutoTokenizer.from_pretrained`, with `tokenizers` installed."
            )

        references = self.references(dataset, language)
        limit = length_limit(tokenizer, max_length)
        ids = self.label2id

        sentences = column(dataset, ["tokens"], language)
        warn_if_cut_otherwise(tokenizer, sentences, language)

        rows = []
        for example, words in enumerate(sentences):
            for encoding, first_subwords in _encode(tokenizer, words, limit, self.overlap):
                # Ignored: later subwords, words of another window, and words without a label.
                labels = [IGNORED_LABEL] * len(encoding["input_ids"])
                for place, word in first_subwords:
                    label = references[example][word]
                    if label is not None:
                        labels[place] = ids[label]

                row = {**encoding, "labels": labels, "words": first_subwords, "example": example}
                rows.append(row)

        return rows

    def decode(self, rows: Sequence[Feature], output: object) -> list[list[tuple[int, str]]]:
        """Return the word and the label with the largest logit, for each word of each row."""
        best = text_logits(output, "logits", 3, rows).argmax(-1).tolist()  # (B, T)

        decoded = []
        for row, classes in zip(rows, best, strict=True):
            decoded.append([(word, self.labels[classes[place]]) for place, word in row["words"]])

        return decoded

    def predictions(
        self,
        dataset: Rows,
        features: Sequence[Feature],
        decoded: Sequence[list[tuple[int, str]]],
    ) -> list[list[str]]:
        """Return one label for each word of each example."""
        # A word without a subword is in no row, and keeps this label.
        labels = [[self.unseen] * len(words) for words in column(dataset, ["tokens"])]

        for feature, predicted in zip(features, decoded, strict=True):
            for word, label in predicted:
                labels[feature["example"]][word] = label

        return labels


def flatten(sentences: Sequence[Sequence[str]]) -> list[str]:
    """Return the tags of all sentences in one list."""
    tags: list[str] = []
    for sentence in sentences:
        tags += sentence

    return tags


def _encode(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str], limit: int, overlap: int
) -> Iterator[tuple[dict[str, list[int]], list[list[int]]]]:
    """Yield the windows of a sentence, each with its pairs of first subword and word."""
    if not words:
        return

    # The whole sentence at once tells how many subwords each word has, so where it can be cut.
    pieces = tokenizer(
        [*words], is_split_into_words=True, add_special_tokens=False, verbose=False
    ).word_ids()
    word_of_piece = [word for word in pieces if word is not None]
    sizes = np.bincount(word_of_piece, minlength=len(words)).tolist()
    room = limit - tokenizer.num_special_tokens_to_add()

    for shown, owned in windows(sizes, room, min(overlap, room // 2)):
        # Truncation is for a single word that is longer than a window.
        encoding = tokenizer(
            [words[i] for i in shown],
            is_split_into_words=True,
            truncation=True,
            max_length=limit,
            verbose=False,
        )

        first_subwords: dict[int, int] = {}
        for place, word in enumerate(encoding.word_ids()):
            if word is not None and shown[word] in owned:
                first_subwords.setdefault(shown[word], place)

        if first_subwords:
            yield dict(encoding), [[place, word] for word, place in first_subwords.items()]
