"""No mixed product: the ablation that every claim about the second-order part must beat."""

from __future__ import annotations

from hf_meta_adapters.meta._anchor import Anchor
from hf_meta_adapters.meta._mixed_product import MixedProduct, MixedRows
from hf_meta_adapters.meta._train_pass import TrainPass
from hf_meta_adapters.meta.vectors import Vector, absent


class FirstOrder(MixedProduct):
    """Zero: the indirect part is dropped. An ablation, not an approximation."""

    def __call__(
        self, at: TrainPass, vector: Vector, anchor: Anchor, *, with_shared: bool
    ) -> MixedRows:
        """Return nothing."""
        return MixedRows(absent(at.language), absent(at.shared))
