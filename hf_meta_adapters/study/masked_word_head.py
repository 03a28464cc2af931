"""The head of an encoder that has none for masked words, trained on states of the frozen body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import DataCollatorForLanguageModeling

from hf_meta_adapters._typing import IGNORED_LABEL, Language
from hf_meta_adapters.data.seeding import seeded
from hf_meta_adapters.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["HeadRecord", "HeadTraining", "train_head"]

_ROWS = 64
"""Rows of a pass through the body."""

_HELD_OUT = 10
"""Every so-manieth state is held out."""

_SMOOTHING = 0.03
"""What is added to the count of every word of the vocabulary."""


@dataclass(frozen=True)
class HeadTraining:
    """How the head is trained.

    Args:
        steps: Steps of AdamW, a tenth of them as warm-up, with linear decay.
        batch_size: States of a step.
        learning_rate: The peak rate.
        mlm_probability: The share of the tokens that are to be predicted.
        max_length: Tokens in a row.
        seed: The seed of masks and batches.
    """

    steps: int = 600
    batch_size: int = 512
    learning_rate: float = 3e-3
    mlm_probability: float = 0.3
    max_length: int = 64
    seed: int = 0


@dataclass(frozen=True)
class HeadRecord:
    """What came of it, in nats per held-out masked word.

    Attributes:
        states: The masked words, those that were held out among them.
        single_words: The cross-entropy of the frequencies of single words, from the words that were
            not held out, 0.03 being added to the count of each word of the vocabulary.
        before: That of the head before.
        after: That of the trained head.
    """

    states: int
    single_words: float
    before: float
    after: float

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes by name."""
        return asdict(self)


def train_head(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[Language, Sequence[str]],
    training: HeadTraining,
) -> HeadRecord:
    """Minimize the masked-word loss by the head alone; body and embeddings stay as they are.

    The states of the body at masked places are computed once. The output bias starts from the
    logarithms of the frequencies of single words, so that the head has only context to learn.

    Args:
        model: A masked language model of a body and a head; its head is trained in place.
        tokenizer: The tokenizer.
        texts: Language → lines.
        training: How to train.

    Returns:
        The losses on held-out masked words.

    Raises:
        ConfigurationError: If head and body cannot be told apart.
    """
    head, parameters = _head(model)
    model.eval()
    with seeded(training.seed):
        states, words = _states(model, tokenizer, texts, training)

    numbers = torch.arange(len(words), device=words.device)
    held_out, kept = numbers[::_HELD_OUT], numbers[numbers % _HELD_OUT > 0]
    counts = torch.bincount(words[kept], minlength=model.config.vocab_size).float() + _SMOOTHING
    logs = (counts / counts.sum()).log()

    before = _loss(head, states[held_out], words[held_out])
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is not None:
        with torch.no_grad():
            bias.copy_(logs)
    _fit(head, parameters, states[kept], words[kept], training)

    return HeadRecord(
        states=len(words),
        single_words=round(-float(logs[words[held_out]].mean()), 4),
        before=round(before, 4),
        after=round(_loss(head, states[held_out], words[held_out]), 4),
    )


def _head(model: PreTrainedModel) -> tuple[nn.Module, list[nn.Parameter]]:
    """The module from states to logits, and its parameters without those of the body."""
    heads = [child for name, child in model.named_children() if name != model.base_model_prefix]
    if len(heads) != 1 or model.base_model is model:
        raise ConfigurationError(
            "The head is trained on states of the body, so the model must consist of a body and a"
            f" head. Found, in `{type(model).__name__}`, beside"
            f" `{model.base_model_prefix}`: {[type(head).__name__ for head in heads]}. Use a masked"
            " language model such as BertForMaskedLM."
        )

    # Output embeddings are often those of the input, which the body reads.
    of_body = {id(parameter) for parameter in model.base_model.parameters()}
    return heads[0], [one for one in heads[0].parameters() if id(one) not in of_body]


@torch.no_grad()
def _states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[Language, Sequence[str]],
    training: HeadTraining,
) -> tuple[Tensor, Tensor]:
    """The states at the masked places of all texts, of shape (words, width), and the words."""
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=training.mlm_probability)
    states: list[Tensor] = []
    words: list[Tensor] = []
    for lines in texts.values():
        rows = tokenizer(list(lines), truncation=True, max_length=training.max_length)["input_ids"]
        # Rows of similar length share a pass.
        rows = sorted(rows, key=len)
        for start in range(0, len(rows), _ROWS):
            batch = collator([{"input_ids": row} for row in rows[start : start + _ROWS]])
            batch = batch.to(model.device)
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            is_word = batch["labels"] != IGNORED_LABEL
            states.append(model.base_model(**inputs)[0][is_word])
            words.append(batch["labels"][is_word])

    return torch.cat(states), torch.cat(words)


def _fit(
    head: nn.Module,
    parameters: Sequence[nn.Parameter],
    states: Tensor,
    words: Tensor,
    training: HeadTraining,
) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=0.0)
    warmup = max(1, training.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, (training.steps - step) / training.steps),
    )

    # On the CPU, so that batches are the same whatever device the states are on.
    generator = torch.Generator().manual_seed(training.seed)
    for _ in range(training.steps):
        picked = torch.randint(len(words), (training.batch_size,), generator=generator)
        picked = picked.to(words.device)
        loss = cross_entropy(head(states[picked]), words[picked])
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
    optimizer.zero_grad()


@torch.no_grad()
def _loss(head: nn.Module, states: Tensor, words: Tensor) -> float:
    total = 0.0
    for some, their in zip(states.split(512), words.split(512), strict=True):
        total += float(cross_entropy(head(some), their, reduction="sum"))
    return total / len(words)
