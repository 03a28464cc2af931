"""Tagging of words: named entities by span F1, parts of speech by accuracy."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.evaluation._columns import column, label_column
from hf_meta_adapters.evaluation._forward import Feature, logits_of
from hf_meta_adapters.evaluation._score_checks import constant_class
from hf_meta_adapters.evaluation._task import Task, TaskScore, register_task
from hf_meta_adapters.evaluation._windows import length_limit, windows
from hf_meta_adapters.evaluation.metrics import SpanF1, TagAccuracy, compute, repair_bio, spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["NER", "POS", "TokenClassification"]

_IGNORED = -100


class TokenClassification(Task):
    """One tag for each word, read from the logits of its first subword.

    No word is lost: a sentence that is too long is cut between words into windows that overlap, and
    each word is labelled and scored in the window that shows most around it; a word of which the
    tokenizer leaves nothing is predicted as `unseen`.

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
        tags = label_column(dataset, self.tag_columns, language)
        for index, (words, own) in enumerate(
            zip(column(dataset, ["tokens"], language), tags, strict=True)
        ):
            if len(words) != len(own):
                raise DataError(
                    f"An example must have one tag for each word. Found {len(words)} words and"
                    f" {len(own)} tags in example {index} of language {language!r}. Correct or"
                    " leave out the example."
                )
        return [[self.label(tag) for tag in own] for own in tags]

    def features(
        self,
        dataset: Rows,
        tokenizer: PreTrainedTokenizerBase,
        *,
        language: Language,
        max_length: int | None = None,
    ) -> list[Feature]:
        """Return windows with `labels` at first subwords (−100 elsewhere) and `words`: pairs (place, word)."""
        if not tokenizer.is_fast:
            raise ConfigurationError(
                "Words can be aligned with subwords only by a fast tokenizer. Found"
                f" `{type(tokenizer).__name__}`. Load the tokenizer by"
                " `AutoTokenizer.from_pretrained`, with `tokenizers` installed."
            )
        references, ids = self.references(dataset, language), self.label2id
        rows = []
        for example, words in enumerate(column(dataset, ["tokens"], language)):
            for encoding, places in _encode(
                tokenizer, words, length_limit(tokenizer, max_length), self.overlap
            ):
                labels = [_IGNORED] * len(encoding["input_ids"])
                for place, word in places:
                    label = references[example][word]
                    labels[place] = _IGNORED if label is None else ids[label]
                rows.append({**encoding, "labels": labels, "words": places, "example": example})
        return rows

    def decode(self, rows: Sequence[Feature], output: Any) -> list[list[tuple[int, str]]]:
        """Return the word and the label with the largest logit, for each word of each row."""
        best = logits_of(output, "logits", 3).argmax(-1).tolist()
        return [
            [(word, self.labels[own[place]]) for place, word in row["words"]]
            for row, own in zip(rows, best, strict=True)
        ]

    def predictions(
        self, dataset: Rows, features: Sequence[Feature], decoded: Sequence[Any]
    ) -> list[list[str]]:
        """Return one label for each word of each example."""
        labels = [[self.unseen] * len(words) for words in column(dataset, ["tokens"])]
        for feature, own in zip(features, decoded, strict=True):
            for word, label in own:
                labels[feature["example"]][word] = label
        return labels


@register_task
class NER(TokenClassification):
    """Named entities: F1 of spans (`SpanF1`, strict IOB2, the BIO scheme repaired in scoring only).

    Types that are not counted become `O`, in `B-` and in `I-`, so that languages annotated with
    different types share one set of labels.

    Args:
        types: The types that are counted.
    """

    name = "ner"
    metric = "f1"
    tag_columns = ("tags", "ner_tags")
    unseen = "O"

    def __init__(self, types: Sequence[str] = ("PER", "ORG", "LOC")) -> None:
        self.types = tuple(types)
        self.labels = ("O", *(f"{prefix}-{entity}" for entity in self.types for prefix in "BI"))

    def label(self, tag: str) -> str:
        """Return the tag itself if its type is counted, else `O`."""
        if tag != "O" and tag[:2] not in ("B-", "I-"):
            raise DataError(
                f'A tag of an entity must be "O", "B-<type>" or "I-<type>". Found {tag!r}. Convert'
                " the data to the BIO scheme."
            )
        return tag if tag[2:] in self.types else "O"

    def score(
        self, dataset: Rows, predictions: Sequence[list[str]], *, language: Language
    ) -> TaskScore:
        """Return precision, recall and F1 of spans; per example the spans found, the right ones and the true ones."""
        references = [
            [str(label) for label in labels] for labels in self.references(dataset, language)
        ]
        self._check_types(dataset, references, language)
        found = [spans(repair_bio(tags)) for tags in predictions]
        true = [spans(repair_bio(tags)) for tags in references]
        counts = {
            "correct": [len(a & b) for a, b in zip(found, true, strict=True)],
            "predicted": [len(a) for a in found],
            "expected": [len(b) for b in true],
        }
        return TaskScore(
            compute(SpanF1, predictions=predictions, references=references),
            {name: np.array(values, dtype=np.float64) for name, values in counts.items()},
            constant_class(_flat(predictions), _flat(references)),
        )

    def _check_types(
        self, dataset: Rows, references: Sequence[Sequence[str]], language: Language
    ) -> None:
        """Refuse data whose entities are all of other types: a score of 0 would say nothing about the model."""
        tags = set(_flat(label_column(dataset, self.tag_columns, language)))
        if set(_flat(references)) == {"O"} and (
            other := sorted({tag[2:] for tag in tags if tag != "O"})
        ):
            raise DataError(
                f"NER counts the types {list(self.types)}. Found only {other} in language"
                f" {language!r}. Write `NER(types={other})`, or rename the types of the data."
            )


@register_task
class POS(TokenClassification):
    """Universal parts of speech (UPOS): accuracy over words.

    Words tagged `_` (the surface forms of contractions in Universal Dependencies) are neither
    trained on nor scored.
    """

    name = "pos"
    metric = "accuracy"
    tag_columns = ("tags", "upos", "pos_tags")
    unseen = "X"
    labels = (
        *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM"),
        *("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X"),
    )

    def label(self, tag: str) -> str | None:
        """Return the tag itself, and nothing for `_`."""
        if tag == "_":
            return None
        if tag not in self.labels:
            raise DataError(
                f"A part of speech must be one of UPOS, {', '.join(self.labels)}. Found {tag!r}."
                " Map the tags of the data to it."
            )
        return tag

    def score(
        self, dataset: Rows, predictions: Sequence[list[str]], *, language: Language
    ) -> TaskScore:
        """Return the accuracy; per example the words that are right and those that are scored."""
        pairs = [
            [
                (label, expected)
                for label, expected in zip(labels, own, strict=True)
                if expected is not None
            ]
            for labels, own in zip(predictions, self.references(dataset, language), strict=True)
        ]
        sides = [[[pair[side] for pair in own] for own in pairs] for side in (0, 1)]
        return TaskScore(
            compute(TagAccuracy, predictions=sides[0], references=sides[1]),
            {
                "correct": np.array(
                    [sum(a == b for a, b in own) for own in pairs], dtype=np.float64
                ),
                "words": np.array([len(own) for own in pairs], dtype=np.float64),
            },
            constant_class(_flat(sides[0]), _flat(sides[1])),
        )


def _encode(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str], limit: int, overlap: int
) -> Iterator[tuple[dict[str, list[int]], list[list[int]]]]:
    """Yield the windows of a sentence, each with its places of first subwords and the words that they begin."""
    options: dict[str, Any] = {"is_split_into_words": True, "verbose": False}
    if not words:
        return
    pieces = tokenizer([*words], add_special_tokens=False, **options).word_ids()
    sizes = np.bincount(
        [word for word in pieces if word is not None], minlength=len(words)
    ).tolist()
    room = limit - tokenizer.num_special_tokens_to_add()
    for shown, owned in windows(sizes, room, min(overlap, room // 2)):
        encoding = tokenizer(
            [words[i] for i in shown], truncation=True, max_length=limit, **options
        )
        places: dict[int, int] = {}
        for place, word in enumerate(encoding.word_ids()):
            if word is not None and shown[word] in owned:
                places.setdefault(shown[word], place)
        if places:
            yield dict(encoding), [[place, word] for word, place in places.items()]


def _flat(sentences: Sequence[Sequence[Any]]) -> list[Any]:
    return [tag for tags in sentences for tag in tags]
