"""How a model is fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hf_meta_adapters._typing import Keywords

__all__ = ["FinetuningSettings"]


@dataclass(frozen=True)
class FinetuningSettings:
    """How a model is fine-tuned.

    Args:
        learning_rate: Peak rate of AdamW for the head, θ and φ, with a tenth of the steps as
            warm-up and linear decay.
        epochs: Passes over the labelled data of the language with most of them.
        max_steps: Optimizer steps, in place of `epochs`; -1 for `epochs`.
        batch_size: Rows of each language in a step.
        max_length: Tokens in a row; `None` for what the tokenizer allows, at most 512.
        seed: Seed of dropout, order, and the draw of few examples.
        progress: Whether to show progress bars.
        early_stopping_patience: With selection data, stop after so many evaluations without a
            better score; `None` to train to the end.
        training: Any arguments of `MetaAdapterTrainingArguments`; they win over those above.
    """

    learning_rate: float = 5e-5
    epochs: float = 3.0
    max_steps: int = -1
    batch_size: int = 32
    max_length: int | None = None
    seed: int = 0
    progress: bool = False
    early_stopping_patience: int | None = 3
    training: Keywords = field(default_factory=dict)

    def with_training(self, **training: object) -> FinetuningSettings:
        """Return settings with further arguments of `MetaAdapterTrainingArguments`, which win."""
        return replace(self, training={**self.training, **training})

    def given(self) -> Keywords:
        """Return the arguments of `MetaAdapterTrainingArguments` that the settings name."""
        return {
            "learning_rate": self.learning_rate,
            "num_train_epochs": self.epochs,
            "max_steps": self.max_steps,
            "per_device_train_batch_size": self.batch_size,
            "seed": self.seed,
            **self.training,
        }
