"""The comparison of the paper: the methods, the cells of a study, and the report of all cells.

Recipes import what they use from its modules.
"""

from hf_meta_adapters.errors import moved_names

__getattr__ = moved_names(
    __name__,
    {
        "ComputeTable": "hf_meta_adapters.study.compute_table",
        "METHODS": "hf_meta_adapters.study.methods",
        "Method": "hf_meta_adapters.study.methods",
        "Pretrained": "hf_meta_adapters.study.methods",
        "StudyArguments": "hf_meta_adapters.study.study_arguments",
        "compute_cell": "hf_meta_adapters.study.cell",
        "count_lines": "hf_meta_adapters.study.cells",
        "examples_seen": "hf_meta_adapters.study.methods",
        "pretrain": "hf_meta_adapters.study.methods",
        "read_texts": "hf_meta_adapters.study.cell",
        "scores_by_method": "hf_meta_adapters.study.method_scores",
        "small_sizes": "hf_meta_adapters.study.model_sizes",
        "study_cells": "hf_meta_adapters.study.cells",
        "study_report": "hf_meta_adapters.study.reporting",
        "train_tokenizer": "hf_meta_adapters.pretraining",
        "trial_cells": "hf_meta_adapters.study.cells",
        "tune_methods": "hf_meta_adapters.study.tuning",
    },
)
