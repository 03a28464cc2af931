"""The comparison of the paper: what each method is, what a cell of the study computes, and the report of all cells."""

from hf_meta_adapters.pretraining import train_tokenizer
from hf_meta_adapters.study._cell import compute_cell, read_texts
from hf_meta_adapters.study._plan import count_lines, study_cells, trial_cells
from hf_meta_adapters.study._pretraining import (
    METHODS,
    Method,
    Pretrained,
    examples_seen,
    pretrain,
    small_sizes,
)
from hf_meta_adapters.study._report import ComputeTable, scores_by_method, study_report
from hf_meta_adapters.study._settings import StudyArguments
from hf_meta_adapters.study._tuning import tune_methods

__all__ = [
    "METHODS",
    "ComputeTable",
    "Method",
    "Pretrained",
    "StudyArguments",
    "compute_cell",
    "count_lines",
    "examples_seen",
    "pretrain",
    "read_texts",
    "scores_by_method",
    "small_sizes",
    "study_cells",
    "study_report",
    "train_tokenizer",
    "trial_cells",
    "tune_methods",
]
