"""The choice of what differentiates a loss, by how its parameters are stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from hf_meta_adapters.meta._differentiate import Differentiate
from hf_meta_adapters.meta._differentiate_sharded import DifferentiateSharded, backward_state_kept
from hf_meta_adapters.meta._differentiate_whole import DifferentiateWhole
from hf_meta_adapters.meta.vectors import is_sharded


@contextmanager
def differentiating(
    parameters: Sequence[Tensor], scale: Tensor | None = None
) -> Iterator[Differentiate]:
    """A context in which losses of these parameters can be differentiated.

    Every `.grad` and `requires_grad` is afterwards as it was.

    Args:
        parameters: All parameters that require gradients and on which a loss may depend.
        scale: The scale of backward passes; default 1.
    """
    if not any(is_sharded(parameter) for parameter in parameters):
        yield DifferentiateWhole(scale)
        return

    with backward_state_kept(parameters):
        yield DifferentiateSharded(parameters, scale)
