"""Measure interference: gradient conflict, what joint training costs, language-specific weights.

Needs torch only, and works on any module that returns a loss. Results are in modules with plain
names, the algorithms that compute them in private ones.
"""

from hf_meta_adapters.diagnostics._compare_scores import interference_report
from hf_meta_adapters.diagnostics._conflict import gradient_conflict
from hf_meta_adapters.diagnostics._conflict_over_time import plot_conflict_over_time
from hf_meta_adapters.diagnostics._learn_masks import learn_language_masks
from hf_meta_adapters.diagnostics._mask_overlap import mask_overlap
from hf_meta_adapters.diagnostics._plan_capacity import plan_language_capacity
from hf_meta_adapters.diagnostics.capacity_plan import CapacityPlan
from hf_meta_adapters.diagnostics.conflict_matrix import ConflictMatrix
from hf_meta_adapters.diagnostics.interference import InterferenceReport
from hf_meta_adapters.diagnostics.overlap_matrix import OverlapMatrix
from hf_meta_adapters.errors import moved_names
from hf_meta_adapters.results.report import DiagnosticReport, ReportSection

__all__ = [
    "CapacityPlan",
    "ConflictMatrix",
    "DiagnosticReport",
    "InterferenceReport",
    "OverlapMatrix",
    "ReportSection",
    "gradient_conflict",
    "interference_report",
    "learn_language_masks",
    "mask_overlap",
    "plan_language_capacity",
    "plot_conflict_over_time",
]

__getattr__ = moved_names(
    __name__,
    {
        "Conflict": "hf_meta_adapters.diagnostics.conflict_matrix",
        "Interference": "hf_meta_adapters.diagnostics.interference",
        "LanguageMasks": "hf_meta_adapters.diagnostics.language_masks",
        "LayerNeed": "hf_meta_adapters.diagnostics.capacity_plan",
    },
)
