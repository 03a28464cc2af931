"""See the interference: gradient conflict between languages.

Needs torch only, and works on any module that returns a loss.
"""

from hf_meta_adapters.diagnostics._conflict import gradient_conflict
from hf_meta_adapters.diagnostics._conflict_matrix import Conflict, ConflictMatrix

__all__ = ["Conflict", "ConflictMatrix", "gradient_conflict"]
