"""Mixed products: d/dε ∇L(θ + ε w, φ) at ε = 0, for the rows of φ and, on request, of θ.

The rows of φ are ∇φ⟨∇θ L, w⟩, the second-order part of the meta-gradient; those of θ are the
Hessian-vector product that carries v through several virtual steps. The estimators are in `_exact`,
`_finite_difference`, `_forward_mode` and `_first_order`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hf_meta_adapters.meta._anchor import Anchor
from hf_meta_adapters.meta._train_pass import TrainPass
from hf_meta_adapters.meta.vectors import Vector, absent, scaled


@dataclass(frozen=True)
class MixedRows:
    """A mixed product, split by the parameters of its rows.

    Args:
        language: The rows of φ.
        shared: The rows of θ; all `None` unless they were asked for.
    """

    language: Vector
    shared: Vector

    @classmethod
    def of(cls, rows: Vector, at: TrainPass) -> MixedRows:
        """Split the rows of `at.parameters(...)`, and let those of a sample stand for all."""
        if at.scale != 1.0:
            rows = scaled(rows, at.scale)

        count = len(at.language)
        if len(rows) == count:
            return cls(rows, absent(at.shared))
        return cls(rows[:count], rows[count:])


class MixedProduct(ABC):
    """An estimator of the mixed product of one language at the present θ.

    Args:
        needs_graph: Whether the training pass should keep the graph of its gradient.
        needs_train_gradient: Whether the training pass should keep its gradient of φ.
    """

    def __init__(self, *, needs_graph: bool = False, needs_train_gradient: bool = False) -> None:
        self.needs_graph = needs_graph
        self.needs_train_gradient = needs_train_gradient

    @abstractmethod
    def __call__(
        self, at: TrainPass, vector: Vector, anchor: Anchor, *, with_shared: bool
    ) -> MixedRows:
        """Compute the product.

        Args:
            at: The training pass of the language at the present θ.
            vector: w, one entry per parameter of θ.
            anchor: Moves θ; a product leaves θ where it found it.
            with_shared: Whether to compute the rows of θ too.

        Returns:
            The rows of φ, and those of θ if they were asked for.
        """

    @contextmanager
    def along(self, vector: Vector, anchor: Anchor) -> Iterator[Callable[[TrainPass], MixedRows]]:
        """A context in which products of several languages with one vector are computed.

        Args:
            vector: w.
            anchor: Moves θ, from wherever it is, and may leave it away from its base.

        Yields:
            Computes the product of a language, without the rows of θ.
        """
        anchor.restore()
        yield lambda at: self(at, vector, anchor, with_shared=False)
