"""Methods that put a prompt before the text: scores are those of the text, whatever the method."""

from __future__ import annotations

import math
from typing import Any

import peft
import pytest
import torch
from torch.nn.functional import log_softmax

from hf_meta_adapters import get_language_model, joint_step
from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.evaluation._best_spans import best_spans
from hf_meta_adapters.evaluation._forward import run_model
from hf_meta_adapters.evaluation._nli import NLI
from hf_meta_adapters.evaluation._pos import POS
from hf_meta_adapters.evaluation._question_answering import QuestionAnswering
from hf_meta_adapters.evaluation.language_model_score import bits_per_character, score_rows
from hf_meta_adapters.training._batch_check import BatchCheck
from tests.adapted import METHODS, lora, stirred
from tests.tiny import CLASSES, VOCABULARY, tiny

TOKENS = 3
PROMPTS = {
    "prompt": lambda task: peft.PromptTuningConfig(num_virtual_tokens=TOKENS, task_type=task),
    "prefix": lambda task: peft.PrefixTuningConfig(num_virtual_tokens=TOKENS, task_type=task),
}
IN_FRONT = {"prompt"}
"""Those whose prompt has logits of its own."""
LENGTHS = (4, 9, 6, 9)


def adapted(cell: Any, method: str, task: str) -> Any:
    base = cell.make(dropout=0.0)
    config = PROMPTS[method](task) if method in PROMPTS else METHODS[method](base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return stirred(get_language_model(base, config, ["en", "sw"]).eval())


def features() -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(1)
    found = []
    for example, length in enumerate(LENGTHS):
        words = torch.randint(3, VOCABULARY, (length,), generator=draw).tolist()
        found.append({"input_ids": words, "attention_mask": [1] * length, "example": example})
    return found


@torch.no_grad()
def alone(model: Any, row: dict[str, Any], name: str = "logits") -> torch.Tensor:
    """What PEFT itself returns for one row without padding, cut off at the end of the prompt."""
    inputs = {n: torch.tensor([row[n]]) for n in ("input_ids", "attention_mask")}
    with model.use_language("sw"):
        logits = model.model(**inputs)[name][0]
    return logits[-len(row["input_ids"]) :] if logits.dim() > 1 or name != "logits" else logits


@pytest.mark.parametrize("method", [*PROMPTS, *METHODS])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_bits_of_a_causal_model(name: str, method: str) -> None:
    model = adapted(tiny(name), method, "CAUSAL_LM")
    rows = features()
    expected = 0.0
    for row in rows:
        row["targets"] = [*row["input_ids"][1:], -100]
        row["characters"] = [1.0] * (len(row["targets"]) - 1) + [0.0]
        chances = log_softmax(alone(model, row), -1)
        expected -= sum(float(chances[t, word]) for t, word in enumerate(row["targets"][:-1]))

    score = bits_per_character(model, rows, "sw", batch_size=4)
    assert score.bits.sum() == pytest.approx(expected / math.log(2), rel=1e-5)


@pytest.mark.parametrize("method", [*sorted(IN_FRONT), "bottleneck"])
def test_bits_of_a_masked_model(method: str) -> None:
    model = adapted(tiny("xlm-r"), method, "FEATURE_EXTRACTION")
    rows = features()
    expected = 0.0
    for row in rows:
        row["targets"] = [-100, 7, *[-100] * (len(row["input_ids"]) - 3), 9]
        row["characters"] = [0.0, 2.0, *[0.0] * (len(row["input_ids"]) - 3), 3.0]
        chances = log_softmax(alone(model, row), -1)
        expected -= float(chances[1, 7] + chances[-1, 9])
    score = bits_per_character(model, rows, "sw", batch_size=4)
    assert score.bits.sum() == pytest.approx(expected / math.log(2), rel=1e-5)


@pytest.mark.parametrize("method", [*sorted(IN_FRONT), "lora"])
def test_tags_of_words(method: str) -> None:
    model, task, rows = (
        adapted(tiny("bert", "token_classification"), method, "TOKEN_CLS"),
        POS(),
        features(),
    )
    favourite = torch.cat([alone(model, row) for row in rows]).mean(0)
    with torch.no_grad():  # without one, the tags of a row differ
        for name, parameter in model.named_parameters():
            if "classifier" in name and name.endswith("bias"):
                parameter.sub_(favourite)
    for row in rows:
        row["words"] = [[place, place] for place in range(len(row["input_ids"]))]
    found = run_model(model, rows, task.decode, language="sw")
    assert len({label for tags in found for _, label in tags}) > 1
    for row, tags in zip(rows, found, strict=True):
        best = alone(model, row).argmax(-1).tolist()
        assert [label for _, label in tags] == [task.labels[number] for number in best]


@pytest.mark.parametrize("method", [*sorted(IN_FRONT), "lora"])
def test_spans_of_answers(method: str) -> None:
    model, rows = adapted(tiny("bert", "question_answering"), method, "QUESTION_ANS"), features()
    for row in rows:
        row["places"] = [[place, place, place + 1] for place in range(len(row["input_ids"]))]
    found = run_model(model, rows, QuestionAnswering().decode, language="sw")
    for row, spans in zip(rows, found, strict=True):
        ends = (alone(model, row, name) for name in ("start_logits", "end_logits"))
        (_, first, last), *_ = best_spans(*ends, longest=64, count=1)
        assert spans[0][1:] == (first, last + 1)


@pytest.mark.parametrize("method", [*sorted(IN_FRONT), "lora"])
@pytest.mark.parametrize("name", ["llama", "xlm-r"])
def test_a_class_does_not_depend_on_the_rows_beside_it(name: str, method: str) -> None:
    model = adapted(tiny(name, "sequence_classification"), method, "SEQ_CLS")
    rows = features()

    def logits(batch: Any, output: Any) -> list[torch.Tensor]:
        return [*output.logits]

    together = run_model(model, rows, logits, language="sw", batch_size=4)
    for row, found in zip(rows, together, strict=True):
        assert found.shape == (CLASSES,) == (len(NLI().labels),)
        torch.testing.assert_close(found, alone(model, row), rtol=1e-4, atol=1e-5)


def test_a_model_that_shortens_the_text_is_refused() -> None:
    output = type("Output", (), {"logits": torch.zeros(1, 4, VOCABULARY)})()
    row = {"input_ids": [3] * 9, "targets": [4] * 9, "characters": [1.0] * 9}
    with pytest.raises(ConfigurationError, match="Found 4 places for 9 tokens"):
        score_rows([row], output)


@pytest.mark.parametrize("method", [*PROMPTS, "lora"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_micro_batches_count_by_the_labels_of_the_loss(name: str, method: str) -> None:
    """With a prompt before it, the first token is predicted as well."""
    cell = tiny(name)
    model = adapted(cell, method, "CAUSAL_LM")
    parts = [cell.batch(1, rows=1, length=2), cell.batch(2, rows=1, length=9)]
    counts = [int((part["labels"] != -100).sum()) - (method not in IN_FRONT) for part in parts]
    with model.use_language("sw"):
        losses = [model(**part).loss.item() for part in parts]
    expected = sum(n * loss for n, loss in zip(counts, losses, strict=True)) / sum(counts)
    found = joint_step(model, {"sw": parts})
    assert float(found.train_loss["sw"]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "head", "task", "label"),
    [
        ("xlm-r", "masked_lm", "FEATURE_EXTRACTION", "labels"),
        ("bert", "token_classification", "TOKEN_CLS", "labels"),
        ("bert", "question_answering", "QUESTION_ANS", "start_positions"),
    ],
)
def test_labels_that_peft_does_not_move_are_refused(
    name: str, head: str, task: str, label: str
) -> None:
    cell = tiny(name, head)
    check = BatchCheck(adapted(cell, "prompt", task))
    with pytest.raises(DataError, match=f"Found `{label}`.*PEFT does not move them"):
        check("train", "sw", cell.batch())
    base = cell.make()
    BatchCheck(get_language_model(base, lora(base), ["sw"]))("train", "sw", cell.batch())


@pytest.mark.parametrize(
    "cell", [tiny("llama"), tiny("llama", "sequence_classification"), tiny("mt5")]
)
def test_labels_that_peft_moves_are_taken(cell: Any) -> None:
    tasks = {"causal_lm": "CAUSAL_LM", "seq2seq_lm": "SEQ_2_SEQ_LM"}
    model = adapted(cell, "prompt", tasks.get(cell.head, "SEQ_CLS"))
    BatchCheck(model)("train", "sw", cell.batch())
