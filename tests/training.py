"""A tiny training run: rows of each language, a model, and a Trainer around both."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

from hf_meta_adapters import (
    BottleneckConfig,
    LanguageAdapterModel,
    MetaAdapterTrainer,
    MetaAdapterTrainingArguments,
    get_language_model,
)
from tests.tiny import FIRST_WORD, VOCABULARY, tiny

# accelerate collects garbage in every run: not among all that the libraries have made on import
gc.freeze()
LANGUAGES = ("te", "da", "zh-Hant")
CONFUSABLE = ("te", "da", "in", "pt", "li", "zh-Hant")
"""Languages whose names are parts of other words: `te` of `adapter`, `li` of `linear`, …"""
Rows = list[dict[str, list[int]]]


def rows(seed: int, count: int = 8, labels: int | None = None, length: int = 6) -> Rows:
    """Sentences for a masked language model: `labels` words are to be predicted in each, `None` for
    1 to 4 of them.
    """
    draw = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, size: int) -> Tensor:
        return torch.randint(low, high, (size,), generator=draw)

    found = []
    for _ in range(count):
        words = integers(FIRST_WORD, VOCABULARY, length)
        chosen = torch.randperm(length, generator=draw)[: labels or int(integers(1, 5, 1))]
        targets = torch.full((length,), -100).index_copy(
            0, chosen, integers(FIRST_WORD, VOCABULARY, len(chosen))
        )
        found.append(
            {
                "input_ids": words.tolist(),
                "attention_mask": [1] * length,
                "labels": targets.tolist(),
            }
        )
    return found


def texts(
    seed: int, languages: Sequence[str] = LANGUAGES, count: int = 8, labels: int | None = None
) -> dict[str, Rows]:
    """Rows of each language; another seed gives others."""
    return {key: rows(1000 * seed + number, count, labels) for number, key in enumerate(languages)}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose words are w0, w1, …, for collators that mask."""
    words = [
        "<pad>",
        "<s>",
        "</s>",
        "<mask>",
        *(f"w{number}" for number in range(FIRST_WORD + 1, VOCABULARY)),
    ]
    model = WordLevel({word: number for number, word in enumerate(words)}, unk_token="<pad>")
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **names)


def masking() -> DataCollatorForLanguageModeling:
    """A collator that draws the masks anew in every batch."""
    return DataCollatorForLanguageModeling(make_tokenizer(), mlm_probability=0.5)


def make_model(
    languages: Sequence[str] = LANGUAGES,
    config: Any = "bottleneck",
    *,
    name: str = "xlm-r",
    head: str | None = None,
    dtype: torch.dtype = torch.float32,
    dropout: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> LanguageAdapterModel:
    """A model whose adapters do something: no parameter has a special value, such as the zeros of a
    fresh adapter.
    """
    if config == "bottleneck":
        config = BottleneckConfig(bottleneck_size=3)
    cell = tiny(name, head)
    if "num_hidden_layers" in cell.family.sizes:  # one does here, in half the time
        cell = replace(
            cell, family=replace(cell.family, sizes={**cell.family.sizes, "num_hidden_layers": 1})
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_language_model(
            cell.make(dtype, dropout, seed), config, languages, **options
        ).to(dtype)
        with torch.no_grad():
            for parameter in (
                p for key in languages for p in model.language_parameters(key).values()
            ):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


class Recorder(MetaAdapterTrainer):
    """A Trainer that keeps the batches it was given."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        self.seen = [*getattr(self, "seen", []), inputs]
        return super().training_step(model, inputs, num_items_in_batch)


def make_trainer(
    output_dir: Any, model: LanguageAdapterModel, *, kind: Any = Recorder, **given: Any
) -> Any:
    """A quiet Trainer for a few steps; what `transformers.Trainer` takes goes there, the rest to
    the arguments.
    """
    names = (
        "train_dataset",
        "meta_dataset",
        "eval_dataset",
        "data_collator",
        "processing_class",
        "callbacks",
    )
    names += ("compute_metrics", "compute_loss_func", "optimizers", "preprocess_logits_for_metrics")
    trainer = {name: given.pop(name) for name in names if name in given}
    trainer.setdefault("train_dataset", texts(1, model.languages))
    trainer.setdefault("meta_dataset", texts(2, model.languages))
    quiet = {
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "max_steps": 2,
    }
    sizes = {"per_device_train_batch_size": 2, "learning_rate": 1e-2, "logging_steps": 1}
    args = MetaAdapterTrainingArguments(output_dir=str(output_dir), **{**quiet, **sizes, **given})
    return kind(model, args, **trainer)


def tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer; a tied one comes once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def snapshot(model: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer."""
    return {name: tensor.detach().clone() for name, tensor in tensors(model).items()}


def moved(before: dict[str, Tensor], model: LanguageAdapterModel) -> set[str]:
    """What has changed since: "shared", or a language; a tensor of nobody comes under its name."""
    owners = dict.fromkeys(model.shared_parameters(), "shared")
    owners |= {name: key for key in model.languages for name in model.language_parameters(key)}
    after = tensors(model)
    return {
        owners.get(name, name)
        for name, tensor in before.items()
        if not torch.equal(tensor, after[name])
    }
