"""Models of the sizes that people train, with random weights made on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import transformers
from torch import Tensor

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.backends.bottleneck import BottleneckConfig
from hf_meta_adapters.backends.peft.lora import lora_config
from hf_meta_adapters.modeling.factory import get_language_model
from hf_meta_adapters.modeling.model import LanguageAdapterModel

__all__ = ["SHAPES", "BenchmarkShape", "flops_of_training"]

_LABELED = 0.15  # of the positions of a masked language model
_FIRST_WORD = 5  # below are the special tokens of XLM-R


@dataclass(frozen=True)
class BenchmarkShape:
    """A model, its adapters, and the batch of a language.

    Attributes:
        name: What tables call it.
        sizes: The arguments of its config.
        rows: Rows of a language in a step.
        length: Tokens of a row.
        frozen: Whether it is a decoder whose base is frozen, in bfloat16 on a GPU, with θ and φ a
            LoRA each; otherwise an encoder of which everything is trained, with bottleneck
            adapters.
        rank: Of the LoRAs.
        labels: How many labels an encoder tells apart at each token, if it is a token classifier
            in place of a masked language model.
    """

    name: str
    sizes: Mapping[str, object] = field(default_factory=dict)
    rows: int = 16
    length: int = 128
    frozen: bool = False
    rank: int = 16
    labels: int | None = None

    @property
    def tokens(self) -> int:
        """Tokens of a language in a step."""
        return self.rows * self.length

    def make(self, languages: Sequence[Language], device: str) -> LanguageAdapterModel:
        """Make the model on the device.

        Args:
            languages: Its languages.
            device: `"cuda"` or `"cpu"`.

        Returns:
            The model, in training mode.
        """
        transformers.set_seed(0)
        # The base alone: adapters are put where the base is.
        with torch.device(device):
            base = self._base(torch.bfloat16 if device == "cuda" else torch.float32)

        if not self.frozen:
            model = get_language_model(base, BottleneckConfig(), languages)
        else:
            config, theta = lora_config(self.rank), lora_config(self.rank)
            model = get_language_model(base, config, languages, shared=theta)
        return model.to(device).train()

    def batch(self, device: str, rows: int | None = None) -> Batch:
        """Draw a batch of random tokens, with a label at every position that has one.

        Args:
            device: Where.
            rows: How many; default those of the shape.

        Returns:
            `input_ids` and `labels`, of shape (rows, length).
        """
        shape = (rows or self.rows, self.length)
        vocabulary = int(str(self.sizes["vocab_size"]))
        words = torch.randint(_FIRST_WORD, vocabulary, shape, device=device)
        if self.labels is not None:
            return {"input_ids": words, "labels": words % self.labels}

        labels = words.clone()
        if not self.frozen:
            labels[torch.rand(shape, device=device) > _LABELED] = -100
            labels[:, 0] = words[:, 0]  # so that no batch is without a label

        return {"input_ids": words, "labels": labels}

    def _base(self, dtype: torch.dtype) -> transformers.PreTrainedModel:
        """The model without languages; weights that are trained are in float32."""
        if not self.frozen:
            given = {"max_position_embeddings": self.length + 2, **self.sizes}
            if self.labels is None:
                return transformers.XLMRobertaForMaskedLM(transformers.XLMRobertaConfig(**given))

            config = transformers.XLMRobertaConfig(num_labels=self.labels, **given)
            return transformers.XLMRobertaForTokenClassification(config)

        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            return transformers.LlamaForCausalLM(transformers.LlamaConfig(**self.sizes))
        finally:
            torch.set_default_dtype(before)


def flops_of_training(
    shape: BenchmarkShape, model: LanguageAdapterModel, batches: Mapping[Language, Batch]
) -> float:
    """Compute the floating-point operations that one training pass over the batches needs.

    6·N·T, for T tokens and N weights of the base that multiply activations: 2 for the forward pass,
    2 for the gradients of activations, 2 for those of weights, which a frozen base does not
    have: 4·N·T. The weights of the head count at labeled positions only. Attention scores,
    adapters, look-ups of embeddings and everything recomputed are left out.

    Args:
        shape: The shape of the model.
        model: The model.
        batches: The batches of a step.

    Returns:
        The number of operations.
    """
    base = model.base_model
    adapters = {id(p) for key in model.languages for p in model.language_parameters(key).values()}
    if shape.frozen:
        adapters |= {id(p) for p in model.shared_parameters().values()}

    looked_up = {
        id(p)
        for module in base.modules()
        if isinstance(module, torch.nn.Embedding)
        for p in module.parameters()
    }
    body = sum(
        p.numel() for p in base.parameters() if id(p) not in adapters and id(p) not in looked_up
    )
    head = 0
    weight = _head(base)
    if weight is not None:
        head = weight.numel()
        if id(weight) not in looked_up:
            body -= head

    tokens = sum(_count(batch["input_ids"]) for batch in batches.values())
    labeled = sum(int((batch["labels"] != -100).sum()) for batch in batches.values())
    return (4.0 if shape.frozen else 6.0) * (body * tokens + head * labeled)


def _head(base: torch.nn.Module) -> Tensor | None:
    """The weight of the head over the vocabulary, if there is one."""
    assert isinstance(base, transformers.PreTrainedModel)
    head = base.get_output_embeddings()
    return None if head is None else head.weight


def _count(tokens: object) -> int:
    assert isinstance(tokens, Tensor)
    return tokens.numel()


SHAPES = {
    "encoder": BenchmarkShape(
        "XLM-R-base, bottleneck adapters",
        {"vocab_size": 250_002, "type_vocab_size": 1, "pad_token_id": 1},
    ),
    "decoder": BenchmarkShape(
        "Llama of 1 billion, frozen, LoRA",
        {
            "vocab_size": 128_256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
        },
        rows=8,
        length=256,
        frozen=True,
    ),
    "token_classifier": BenchmarkShape(
        "token classifier of 12 × 384, bottleneck adapters",
        {
            "vocab_size": 71_933,
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
            "pad_token_id": 1,
        },
        rows=8,
        length=40,
        labels=17,
    ),
    "tiny_token_classifier": BenchmarkShape(
        "tiny token classifier, bottleneck adapters",
        {
            "vocab_size": 200,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "pad_token_id": 1,
        },
        rows=2,
        length=8,
        labels=5,
    ),
    "tiny_encoder": BenchmarkShape(
        "tiny XLM-R, bottleneck adapters",
        {
            "vocab_size": 200,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "pad_token_id": 1,
        },
        rows=2,
        length=8,
    ),
    "tiny_decoder": BenchmarkShape(
        "tiny Llama, frozen, LoRA",
        {
            "vocab_size": 200,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "intermediate_size": 32,
            "tie_word_embeddings": True,
        },
        rows=2,
        length=8,
        frozen=True,
        rank=2,
    ),
}
"""Name → shape: those of the benchmark, and tiny ones that run all of its code."""
