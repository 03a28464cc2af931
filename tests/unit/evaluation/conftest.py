"""Tokenizers trained in memory on a few lines in seven scripts and languages, tiny models, and
models that know all.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import nn
from transformers import PreTrainedTokenizerFast

from tests.tiny import HEADS, tiny

LINES = {
    "en": "Sir Isaac Newton was born in Lincolnshire, and he watched the apples fall.",
    "ar": "وُلد ابن سينا في بخارى، وكتب القانون في الطب سنة ١٠٢٥.",
    "fr": "L’été dernier, Élodie Lefèvre est allée à Besançon avec l'équipe du château.",
    "ru": "Анна Ахматова родилась под Одессой и жила в Санкт-Петербурге.",
    "hi": "रवीन्द्रनाथ ठाकुर का जन्म कोलकाता में १८६१ में हुआ था।",
    "sw": "Mwalimu Julius Nyerere alizaliwa Butiama, karibu na ziwa Viktoria.",
    "te": "శ్రీ కృష్ణదేవరాయలు విజయనగర సామ్రాజ్యాన్ని పాలించాడు.",
}
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
KINDS = ("unigram", "byte_bpe", "wordpiece")


def train_tokenizer(
    kind: str, lines: list[str], *, size: int = 500, around: bool = True
) -> PreTrainedTokenizerFast:
    """A tokenizer like that of XLM-R (unigram), of RoBERTa (byte_bpe) or of uncased BERT
    (wordpiece).
    """
    if kind == "unigram":
        made, trainer = Tokenizer(models.Unigram()), trainers.UnigramTrainer
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        options: dict[str, Any] = {"unk_token": "<unk>"}
    elif kind == "byte_bpe":
        made, trainer = Tokenizer(models.BPE()), trainers.BpeTrainer
        made.pre_tokenizer, made.decoder = (
            pre_tokenizers.ByteLevel(add_prefix_space=True),
            decoders.ByteLevel(),
        )
        options = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    else:
        made, trainer = Tokenizer(models.WordPiece(unk_token="<unk>")), trainers.WordPieceTrainer
        made.normalizer = normalizers.BertNormalizer()
        made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        options = {}
    made.train_from_iterator(
        lines, trainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False, **options)
    )
    if around:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>",
            pair="<s> $A </s> </s> $B </s>",
            special_tokens=[("<s>", 0), ("</s>", 2)],
        )
    names = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "sep_token": "</s>",
    }
    inputs = ["input_ids", "attention_mask"]  # as XLM-R has it
    given = {
        "model_input_names": inputs,
        "tokenizer_object": made,
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        **(names if around else {}),
    }
    return PreTrainedTokenizerFast(add_prefix_space=True, **given)


@pytest.fixture(scope="session", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """Each kind of tokenizer in turn."""
    return train_tokenizer(request.param, list(LINES.values()))


@pytest.fixture(scope="session")
def unigram() -> PreTrainedTokenizerFast:
    """One tokenizer, where the kind does not matter."""
    return train_tokenizer("unigram", list(LINES.values()))


@pytest.fixture
def make_model() -> Callable[..., Any]:
    """A tiny model with a head, over the vocabulary of a tokenizer."""

    def make(
        head: str, tokenizer: PreTrainedTokenizerFast, task: Any = None, family: str = "xlm-r"
    ) -> Any:
        config = tiny(family, head).config()
        config.vocab_size, config.max_position_embeddings = len(tokenizer), 160
        config.pad_token_id = tokenizer.pad_token_id
        if task is not None and task.labels:
            config.num_labels, config.id2label, config.label2id = (
                len(task.labels),
                task.id2label,
                task.label2id,
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = getattr(transformers, HEADS[head]).from_config(config)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return model.eval()

    return make


class Oracle(nn.Module):
    """A model that recognises each row of `features` and gives the logits that are right for it."""

    def __init__(self, features: list[dict[str, Any]], task: Any) -> None:
        super().__init__()
        self.rows: dict[tuple[int, ...], dict[str, Any]] = {}
        for row in features:
            known = self.rows.setdefault(tuple(row["input_ids"]), {**row})
            if isinstance(row.get("labels"), list):  # windows that show the same words
                known["labels"] = [
                    max(pair) for pair in zip(known["labels"], row["labels"], strict=True)
                ]
        self.config = SimpleNamespace(id2label=task.id2label, pad_token_id=None)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> Any:
        texts = [
            tuple(ids[mask == 1].tolist())
            for ids, mask in zip(input_ids, attention_mask, strict=True)
        ]
        rows, shape = [self.rows[text] for text in texts], tuple(input_ids.shape)
        if "start_positions" in rows[0]:
            starts, ends = torch.zeros(shape), torch.zeros(shape)
            for index, row in enumerate(rows):
                starts[index, row["start_positions"]] = ends[index, row["end_positions"]] = 10.0
            return SimpleNamespace(start_logits=starts, end_logits=ends)
        classes = len(self.config.id2label)
        if isinstance(rows[0]["labels"], int):
            return SimpleNamespace(logits=torch.eye(classes)[[row["labels"] for row in rows]])
        logits = torch.zeros(*shape, classes)
        for index, row in enumerate(rows):
            for place, label in enumerate(row["labels"]):
                if label != -100:
                    logits[index, place, label] = 1.0
        return SimpleNamespace(logits=logits)


class Noise(nn.Module):
    """A model whose logits are random, of the form that the task reads."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.config = SimpleNamespace(id2label=task.id2label, pad_token_id=None)
        self.task = task
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        shape, classes = tuple(input_ids.shape), len(self.config.id2label)
        if self.task.name == "qa":
            start, end = torch.randn(2, *shape, generator=self.generator)
            return SimpleNamespace(start_logits=start, end_logits=end)
        size = (shape[0], classes) if self.task.name == "nli" else (*shape, classes)
        return SimpleNamespace(logits=torch.randn(size, generator=self.generator))
