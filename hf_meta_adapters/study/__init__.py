"""The comparison of the paper: the methods, the cells of a study, and the report of all cells."""

from hf_meta_adapters.errors import moved_names
from hf_meta_adapters.study._compute_table import ComputeTable
from hf_meta_adapters.study._scores_by_method import scores_by_method
from hf_meta_adapters.study._study_arguments import StudyArguments
from hf_meta_adapters.study._study_report import study_report
from hf_meta_adapters.study._tuning import tune_methods

__all__ = [
    "ComputeTable",
    "StudyArguments",
    "scores_by_method",
    "study_report",
    "tune_methods",
]

__getattr__ = moved_names(
    __name__,
    {
        "METHODS": "hf_meta_adapters.study.methods",
        "Method": "hf_meta_adapters.study.methods",
        "Pretrained": "hf_meta_adapters.study.methods",
        "compute_cell": "hf_meta_adapters.study.cell",
        "count_lines": "hf_meta_adapters.study.cells",
        "examples_seen": "hf_meta_adapters.study.methods",
        "pretrain": "hf_meta_adapters.study.methods",
        "read_texts": "hf_meta_adapters.study.cell",
        "small_sizes": "hf_meta_adapters.study.methods",
        "study_cells": "hf_meta_adapters.study.cells",
        "train_tokenizer": "hf_meta_adapters.pretraining",
        "trial_cells": "hf_meta_adapters.study.cells",
    },
)
