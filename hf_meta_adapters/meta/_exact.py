"""The exact mixed product, by reverse mode over reverse mode."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hf_meta_adapters.meta._anchor import Anchor
from hf_meta_adapters.meta._mixed_product import MixedProduct, MixedRows
from hf_meta_adapters.meta._second_order import check_graph, second_order
from hf_meta_adapters.meta._train_pass import TrainPass
from hf_meta_adapters.meta.vectors import Vector, absent, add_, dot


class Exact(MixedProduct):
    """Double backward of the training loss alone: ∇⟨∇θ L, w⟩ by reverse mode over reverse mode.

    Equal to backpropagation through the unrolled step, up to rounding. It costs about 1.3 ordinary
    passes where the training pass has kept its graph, and one more where it has not.
    """

    def __init__(self) -> None:
        super().__init__(needs_graph=True)

    def __call__(
        self, at: TrainPass, vector: Vector, anchor: Anchor, *, with_shared: bool
    ) -> MixedRows:
        """Differentiate ⟨∇θ L, w⟩."""
        parameters = at.parameters(with_shared=with_shared)

        with second_order():
            if at.graph is not None:
                return MixedRows.of(_differentiated(at, at.graph, vector, parameters), at)

            # Several micro-batches or virtual steps: one graph is alive at a time.
            total = absent(parameters)
            for loss in at.losses:
                slopes = at.differentiate.gradient(loss(), at.shared, create_graph=True)
                check_graph(slopes)
                add_(total, _differentiated(at, slopes, vector, parameters))
            return MixedRows.of(total, at)


def _differentiated(
    at: TrainPass, slopes: Vector, vector: Vector, parameters: Sequence[Tensor]
) -> Vector:
    """∇⟨∇θ L, w⟩, or nothing where ∇θ L is constant and has no graph."""
    product = dot(slopes, vector)
    if not product.requires_grad:
        return absent(parameters)
    return at.differentiate.gradient(product, parameters)
