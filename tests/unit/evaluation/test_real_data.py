"""Every task on real data, in every language that has it: a model that knows all scores what it
must.
"""

import pytest

from hf_meta_adapters.data import load_local_datasets
from hf_meta_adapters.evaluation import (
    NER,
    NLI,
    POS,
    MaskedLM,
    QuestionAnswering,
    evaluate_languages,
)

from .conftest import Noise, Oracle, train_tokenizer

LANGUAGES = {
    "ner": ("ar", "en", "fr", "hi", "ru", "sw", "te"),
    "pos": ("ar", "en", "fr", "hi", "ru", "sw", "te"),
    "qa": ("ar", "en", "hi", "ru", "sw"),
    "nli": ("ar", "en", "fr", "hi", "ru", "sw"),
}
TASKS = [NER(), POS(), NLI(), QuestionAnswering(longest_answer=200)]
CHANCE = {"ner": 0.1, "pos": 0.1, "nli": 0.5, "qa": 0.2}  # nli: 1/3 and three standard errors


@pytest.fixture(scope="module")
def multilingual(shared_data):
    texts = load_local_datasets(shared_data / "text", "test", limit=300)
    return train_tokenizer(
        "unigram", [row["text"] for rows in texts.values() for row in rows], size=4000
    )


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_perfect_and_random_predictions(shared_data, multilingual, task):
    data = load_local_datasets(
        shared_data / task.name, "test", limit=25 if task.name == "qa" else 60
    )
    assert tuple(data) == LANGUAGES[task.name]
    options = {"processing_class": multilingual, "max_length": 256}
    for language, dataset in data.items():
        rows = task.features(dataset, multilingual, language=language, max_length=256)
        perfect = evaluate_languages(Oracle(rows, task), task, {language: dataset}, **options)
        assert perfect[language][task.metric] == 1, language
        chance = evaluate_languages(Noise(task), task.name, {language: dataset}, **options)
        assert chance[language][task.metric] <= CHANCE[task.name], language


def test_masks_cover_real_text(shared_data, multilingual):
    task = MaskedLM()
    for language, dataset in load_local_datasets(
        shared_data / "parallel", "test", limit=50
    ).items():
        rows = task.features(dataset, multilingual, language=language, max_length=64)
        characters = sum(sum(row["characters"]) for row in rows)
        share = characters / sum(len(text) for text in dataset["text"])
        assert 0.1 < share < 0.2, language
