"""A small family with adapters that differ, and labelled sentences, for tests of fine-tuning."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import transformers
from tokenizers.pre_tokenizers import WhitespaceSplit

from hf_meta_adapters import LanguageAdapterModel
from hf_meta_adapters.evaluation import POS
from hf_meta_adapters.finetuning import FinetuningSettings, load_for_task
from tests.tiny import FIRST_WORD, VOCABULARY
from tests.training import make_model, make_tokenizer

LANGUAGES = ("en", "sw", "hi", "te")
TAGS = ("NOUN", "VERB")
QUICK = FinetuningSettings(learning_rate=1e-3, max_steps=2, batch_size=4)

Sentences = list[dict[str, list[str]]]


def sentences(seed: object, count: int, length: int = 5) -> Sentences:
    """Different sentences, in which the number of a word says what it is."""
    draw = random.Random(f"{seed}")
    rows: Sentences = []
    while len(rows) < count:
        numbers = [draw.randrange(FIRST_WORD + 1, VOCABULARY) for _ in range(length)]
        row = {
            "tokens": [f"w{number}" for number in numbers],
            "tags": [TAGS[number % 2] for number in numbers],
        }
        if row not in rows:
            rows.append(row)
    return rows


def labelled(role: str, **counts: int) -> dict[str, Sentences]:
    """Sentences of each language; those of two roles differ."""
    return {key: sentences((role, key), count) for key, count in counts.items()}


def word_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """The tokenizer of the tests, which splits texts at spaces."""
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer


def saved_family(folder: Path, **options: Any) -> Path:
    """Write the family with its tokenizer."""
    make_model(LANGUAGES, **options).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def maker(folder: Path, **options: Any) -> Callable[[], LanguageAdapterModel]:
    """What makes the model of an experiment, the same each time."""

    def make() -> LanguageAdapterModel:
        transformers.set_seed(0)
        auto_class = transformers.AutoModelForTokenClassification
        return load_for_task(folder, auto_class, POS(), **options)

    return make


def kept(made: list[LanguageAdapterModel], make: Callable[[], LanguageAdapterModel]) -> Any:
    """The same maker, which keeps what it has made in a list."""

    def make_and_keep() -> LanguageAdapterModel:
        made.append(make())
        return made[-1]

    return make_and_keep


def owners(model: LanguageAdapterModel, names: Sequence[str]) -> set[str]:
    """Whose parameters these are: "head", "body", or a language."""
    of_languages = {name: key for key in model.languages for name in model.language_parameters(key)}
    return {of_languages.get(name, "head" if "classifier" in name else "body") for name in names}
