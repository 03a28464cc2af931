"""See the interference: gradient conflict, what joint training costs, language-specific parameters.

Needs torch only, and works on any module that returns a loss.
"""

from hf_meta_adapters.diagnostics._conflict import gradient_conflict
from hf_meta_adapters.diagnostics._conflict_matrix import Conflict, ConflictMatrix
from hf_meta_adapters.diagnostics._interference import interference_report
from hf_meta_adapters.diagnostics._interference_report import Interference, InterferenceReport
from hf_meta_adapters.diagnostics._language_masks import LanguageMasks
from hf_meta_adapters.diagnostics._mask_overlap import mask_overlap
from hf_meta_adapters.diagnostics._masks import learn_language_masks
from hf_meta_adapters.diagnostics._overlap_matrix import OverlapMatrix

__all__ = [
    "Conflict",
    "ConflictMatrix",
    "Interference",
    "InterferenceReport",
    "LanguageMasks",
    "OverlapMatrix",
    "gradient_conflict",
    "interference_report",
    "learn_language_masks",
    "mask_overlap",
]
