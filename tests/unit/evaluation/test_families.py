"""Every family of models with every head that a task can be scored with."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from hf_meta_adapters.evaluation import NER, evaluate_languages, get_task
from hf_meta_adapters.evaluation._forward import run_model
from tests.tiny import MODELS, VOCABULARY

from .conftest import train_tokenizer

TASK_OF = {
    "masked_lm": "masked_lm",
    "causal_lm": "causal_lm",
    "token_classification": "ner",
    "sequence_classification": "nli",
    "question_answering": "qa",
}
CELLS = [cell for cell in MODELS if cell.head in TASK_OF]
SENTENCE = "Julius Nyerere alizaliwa Butiama karibu na ziwa"
ROWS = {
    "ner": {"tokens": SENTENCE.split(), "tags": ["B-PER", "I-PER", "O", "B-LOC", "O", "O", "O"]},
    "nli": {"premise": SENTENCE, "hypothesis": "alizaliwa ziwa", "label": "neutral"},
    "qa": {
        "context": SENTENCE,
        "question": "na ziwa",
        "answers": {"text": ["Butiama"], "answer_start": [25]},
    },
    "masked_lm": {"text": SENTENCE},
    "causal_lm": {"text": SENTENCE},
}


@pytest.fixture(scope="module")
def small() -> PreTrainedTokenizerFast:
    tokenizer = train_tokenizer("wordpiece", [SENTENCE], size=VOCABULARY)
    assert len(tokenizer) <= VOCABULARY
    return tokenizer


def task_for(head):
    return NER(types=["PER"]) if head == "token_classification" else get_task(TASK_OF[head])


def data_for(task):
    row = ROWS[task.name]
    shorter = {
        "ner": {"tokens": ["Julius", "na"], "tags": ["B-PER", "O"]},
        "nli": {"hypothesis": "na"},
        "qa": {"context": SENTENCE[:33]},
    }
    return [row, row | shorter.get(task.name, {"text": "na ziwa"}), row]


def make(tiny_model, task):
    model = tiny_model.make()
    if task.labels:
        model.config.id2label = task.id2label
    return model


@pytest.mark.filterwarnings("ignore::hf_meta_adapters.evaluation.ConstantPredictionWarning")
@pytest.mark.parametrize("tiny_model", CELLS, ids=str)
def test_every_head_is_scored(tiny_model, small):
    task = task_for(tiny_model.head)
    data = {"sw": data_for(task), "te": data_for(task)[:2]}
    scores = evaluate_languages(
        make(tiny_model, task), task, data, processing_class=small, max_length=30
    )
    assert scores.examples == {"sw": 3, "te": 2}
    assert all(0 <= value < 20 for own in scores.scores.values() for value in own.values())


@pytest.mark.parametrize("tiny_model", CELLS, ids=str)
def test_padding_changes_no_logit(tiny_model, small):
    task = task_for(tiny_model.head)
    model, rows = (
        make(tiny_model, task),
        task.features(data_for(task), small, language="sw", max_length=30),
    )

    def keep(batch, output):
        logits = output.start_logits if task.name == "qa" else output.logits
        cut = (
            logits
            if task.name == "nli"
            else [own[: len(row["input_ids"])] for row, own in zip(batch, logits, strict=True)]
        )
        return list(cut)

    assert len({len(row["input_ids"]) for row in rows}) > 1
    for alone, padded in zip(
        run_model(model, rows, keep, batch_size=1),
        run_model(model, rows, keep, batch_size=8),
        strict=True,
    ):
        torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)
