"""A task of lm-evaluation-harness for tests: choices between words, on disk, without a network."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny import FIRST_WORD, VOCABULARY

REASON = "NOT CHECKED: lm_eval is absent; the extra `eval` brings it"
ROWS = 24
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: label
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
"""


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose words, w3 and up, are separated by spaces."""
    special = ["<pad>", "<s>", "</s>"]
    words = [*special, *(f"w{number}" for number in range(FIRST_WORD, VOCABULARY))]
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def write_tasks(folder: Path, names: Sequence[str]) -> list[dict]:
    """Write a YAML file for each name; return the rows, which are those of all."""
    draw = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{draw.randrange(FIRST_WORD, VOCABULARY)}" for _ in range(count))

    rows = [
        {
            "question": words(draw.randint(1, 4)),
            "choices": [words(draw.randint(1, 3)) for _ in range(3)],
            "label": draw.randrange(3),
        }
        for _ in range(ROWS)
    ]
    folder.mkdir()
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for name in names:
        text = TASK.format(name=name, file=file)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return rows
