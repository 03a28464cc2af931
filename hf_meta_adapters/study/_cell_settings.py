"""The settings of a cell of a study, as its file has them."""

from __future__ import annotations

from typing import Any, TypedDict

from hf_meta_adapters._typing import Language

__all__ = ["CellSettings"]


class CellSettings(TypedDict):
    """Everything that determines the scores of a cell.

    The names and their order are those of the JSON files: a change makes a study start anew.
    """

    # The model and its pretraining, see `pretrain`.
    model_type: str
    sizes: dict[str, Any]
    mlm_probability: float
    bottleneck_size: int | None

    # The tokenizer (recorded only: all cells of a study share one), and the limits of the data.
    vocabulary: int
    max_length: int
    text_limit: int
    test_limit: int
    labelled_limit: int

    # Fine-tuning, see `load_for_task` and `FinetuningSettings`.
    train: str
    zero_shot_train: str
    finetuning: dict[str, Any]
    pivot: Language

    # What tells this cell from others.
    method: str
    languages: list[Language]
    seed: int
    steps: int
    training: dict[str, Any]
    split: str
    tasks: list[str]
