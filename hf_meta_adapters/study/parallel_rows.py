"""Rows of parallel text, each with the vector that a frozen encoder gives its translation."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.results.files import replacing, write_text
from hf_meta_adapters.study.translation_ranking import mean_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["ParallelRows", "embed_texts", "parallel_texts"]

_ROWS = 64
"""Rows of a pass."""

Pairs: TypeAlias = dict[Language, list[tuple[str, str]]]
"""Language → texts, each with its translation."""


def parallel_texts(
    data: str | Path, languages: Sequence[Language], pivot: Language, limit: int
) -> Pairs:
    """Pair the lines of each language with translations.

    Those of the pivot stand opposite the texts of all other languages; opposite those of the pivot
    stands one other language in turn.

    Args:
        data: The folder with `parallel/<language>/train.tsv.gz`, lines of `id<TAB>text`.
        languages: The languages.
        pivot: The pivot.
        limit: The largest number of pairs of a language, drawn once for all seeds.

    Returns:
        Language → texts with their translations.

    Raises:
        DataError: If a file is missing, or a language has no pair.
    """
    lines = {language: _lines(Path(data), language) for language in languages}
    others = [language for language in languages if language != pivot]

    pairs: Pairs = {}
    for language in languages:
        opposite = [pivot] if language != pivot else others
        ids = sorted(lines[language])
        random.Random(f"parallel-{language}").shuffle(ids)

        found: list[tuple[str, str]] = []
        for key in ids:
            other = opposite[len(found) % len(opposite)]
            if key in lines[other] and len(found) < limit:
                found.append((lines[language][key], lines[other][key]))
        if not found:
            raise DataError(
                f"A language must have translations. Found none of {language!r} in {opposite},"
                f" under {data}. Leave it out of `languages`."
            )
        pairs[language] = found
    return pairs


def _lines(data: Path, language: Language) -> dict[str, str]:
    path = data / "parallel" / language / "train.tsv.gz"
    if not path.is_file():
        raise DataError(
            f"The objective `translations` reads parallel text. Found no {path}. Name its folder as"
            " `data`, or use the objective `masked_words`."
        )

    with gzip.open(path, "rt", encoding="utf-8") as file:
        return dict(line.rstrip("\n").split("\t", 1) for line in file)


@torch.no_grad()
def embed_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int,
) -> Tensor:
    """Compute the vectors of texts: the mean of the last states of the body, at length 1.

    Args:
        model: The model with the body.
        tokenizer: The tokenizer.
        texts: The texts.
        max_length: Tokens in a row.

    Returns:
        The vectors on the CPU, of shape (texts, width).
    """
    model.eval()
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    vectors = torch.empty(len(texts), model.config.hidden_size)
    for start in range(0, len(texts), _ROWS):
        some = order[start : start + _ROWS]
        batch = tokenizer(
            [texts[number] for number in some],
            truncation=True,
            max_length=max_length,
            padding=True,
            return_tensors="pt",
        ).to(model.device)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        states = model.base_model(**inputs)[0]
        vectors[torch.tensor(some)] = mean_states(states, inputs["attention_mask"]).cpu()
    return vectors


@dataclass(frozen=True)
class ParallelRows:
    """Texts of each language, and the vectors of their translations.

    Args:
        texts: Language → texts.
        vectors: Language → vectors of their translations, of shape (texts, width).
    """

    texts: Mapping[Language, Sequence[str]]
    vectors: Mapping[Language, Tensor]

    def save(self, folder: Path) -> None:
        """Write the rows.

        Args:
            folder: The folder.
        """
        write_text(folder / "texts.json", json.dumps(self.texts, ensure_ascii=False))
        with replacing(folder / "vectors.safetensors") as new:
            save_file(dict(self.vectors), new)

    @classmethod
    def load(cls, folder: Path) -> ParallelRows:
        """Read the rows.

        Args:
            folder: The folder.

        Returns:
            The rows.
        """
        texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        return cls(texts, load_file(folder / "vectors.safetensors"))
