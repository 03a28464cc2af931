"""The fine-tuned model of an experiment on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_meta_adapters._typing import Keywords
from hf_meta_adapters.evaluation import LanguageScores
from hf_meta_adapters.modeling.model import LanguageAdapterModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["publish_model"]


def publish_model(
    folder: str | Path,
    scores: LanguageScores,
    tokenizer: PreTrainedTokenizerBase,
    training: Keywords,
) -> None:
    """Push a saved model to the Hub, with its scores and the tokenizer.

    Args:
        folder: The folder of the model.
        scores: Its scores, for the card.
        tokenizer: The tokenizer.
        training: The arguments of the Trainer that were given: `hub_model_id` (default the name of
            the folder), `hub_private_repo`, `hub_revision` and `hub_token` count.

    Raises:
        HubError: If the repository cannot be written.
    """
    model = LanguageAdapterModel.from_pretrained(folder)
    model.push_to_hub(
        training.get("hub_model_id") or Path(folder).resolve().name,
        private=training.get("hub_private_repo"),
        revision=training.get("hub_revision"),
        token=training.get("hub_token"),
        processing_class=tokenizer,
        scores=scores,
    )
