"""How a model is fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_meta_adapters._typing import Keywords

__all__ = ["FinetuningSettings"]


@dataclass(frozen=True)
class FinetuningSettings:
    """How a model is fine-tuned.

    Args:
        learning_rate: Peak rate of AdamW, with a tenth of the steps as warm-up and linear decay.
        epochs: Passes over the labelled data.
        max_steps: Optimizer steps, in place of `epochs`; -1 for `epochs`.
        batch_size: Rows in a step.
        max_length: Tokens in a row; `None` for what the tokenizer allows, at most 512.
        seed: Seed of head, dropout and order.
        progress: Whether to show progress bars.
        training: Further arguments of `MetaAdapterTrainingArguments`.
    """

    learning_rate: float = 5e-5
    epochs: float = 3.0
    max_steps: int = -1
    batch_size: int = 32
    max_length: int | None = None
    seed: int = 0
    progress: bool = False
    training: Keywords = field(default_factory=dict)
