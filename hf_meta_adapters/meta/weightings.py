"""The weights of the languages' gradients in the update of θ: TorchJD's methods, by name.

Each takes the inner products of the gradients, and each is brought to one scale: where all
gradients are equal, the weighted sum is that gradient, as with the mean. A learning rate then means
the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from hf_meta_adapters.errors import ConfigurationError

if TYPE_CHECKING:
    from torchjd.aggregation import GradVacWeighting

Weigh: TypeAlias = Callable[[Tensor], Tensor]
"""The inner products of L gradients, (L, L), float64 → their weights, (L)."""

_RADIUS = 0.5  # c of CAGrad, within the range that its authors recommend
_FAIRNESS = 2.0  # α of FairGrad; with 1, it is Nash-MTL


def _as_they_are(weights: Tensor) -> float:
    return 1.0


def _to_sum_1(weights: Tensor) -> float:
    return float(weights.sum())


@dataclass(frozen=True)
class Method:
    """A method of TorchJD.

    Args:
        make: Makes the function from inner products to weights; it imports TorchJD.
        divisor: What its weights are divided by.
        needs: The modules that it needs.
    """

    make: Callable[[], Weigh]
    divisor: Callable[[Tensor], float] = _as_they_are
    needs: tuple[str, ...] = ("torchjd",)


def _pcgrad() -> Weigh:
    from torchjd.aggregation import PCGradWeighting

    return PCGradWeighting()


def gradvac() -> GradVacWeighting:
    """The weighting of GradVac, which keeps the cosines that it aims at."""
    from torchjd.aggregation import GradVacWeighting

    return GradVacWeighting()


def _upgrad() -> Weigh:
    from torchjd.aggregation import UPGradWeighting

    return UPGradWeighting()


def _dualproj() -> Weigh:
    from torchjd.aggregation import DualProjWeighting

    return DualProjWeighting()


def _cagrad() -> Weigh:
    from torchjd.aggregation import CAGradWeighting

    return CAGradWeighting(c=_RADIUS)


def _aligned_mtl() -> Weigh:
    from torchjd.aggregation import AlignedMTLWeighting

    return AlignedMTLWeighting()


def _mgda() -> Weigh:
    from torchjd.aggregation import MGDAWeighting

    return MGDAWeighting()


def _imtl_g() -> Weigh:
    from torchjd.aggregation import IMTLGWeighting

    return IMTLGWeighting()


def _fairgrad() -> Weigh:
    from torchjd.aggregation import FairGradWeighting

    return FairGradWeighting(alpha=_FAIRNESS)


def _nash_mtl() -> Weigh:
    from torchjd.aggregation import NashMTL

    def weigh(gramian: Tensor) -> Tensor:
        # It takes the gradients and uses nothing but their products: any root of these will do.
        # Made anew, since what it keeps from step to step only says where its solver starts.
        values, vectors = torch.linalg.eigh(gramian)
        root = vectors * values.clamp_min(0).sqrt()
        return NashMTL(n_tasks=len(gramian), max_norm=0.0).weighting(root)

    return weigh


_QUADRATIC = ("torchjd", "qpsolvers", "quadprog")

METHODS: Mapping[str, Method] = {
    "pcgrad": Method(_pcgrad, len),
    "gradvac": Method(gradvac, len),
    "upgrad": Method(_upgrad, needs=_QUADRATIC),
    "dualproj": Method(_dualproj, needs=_QUADRATIC),
    "cagrad": Method(_cagrad, lambda weights: 1 + _RADIUS, needs=("torchjd", "cvxpy", "clarabel")),
    "aligned_mtl": Method(_aligned_mtl),
    "mgda": Method(_mgda),
    "imtl_g": Method(_imtl_g),
    "fairgrad": Method(_fairgrad, _to_sum_1, needs=("torchjd", "scipy")),
    "nash_mtl": Method(_nash_mtl, _to_sum_1, needs=("torchjd", "cvxpy", "ecos")),
}
"""Name → method. All but GradVac depend on the present inner products alone."""

_WITHOUT_WEIGHTS = "combines gradients entry by entry, not by weights of languages"
_TWO_BATCHES = "needs gradients of two independent batches of each language"

_REFUSED = {
    "config": _WITHOUT_WEIGHTS,
    "graddrop": _WITHOUT_WEIGHTS,
    "trimmed_mean": _WITHOUT_WEIGHTS,
    "modo": _TWO_BATCHES,
    "sdmgrad": _TWO_BATCHES,
    "pcd": "puts one language before all others",
    "krum": "leaves out the languages that differ most, as if they were attackers",
    "excess_mtl": "needs whole gradients of all earlier steps",
    "cr_mogm": "smooths the weights of another method",
    "random": "draws weights that do not depend on the gradients",
}
"""Further methods of TorchJD, and why θ is not updated by them."""


def check_method(name: str) -> None:
    """Check that a method is known and that its packages are installed.

    Args:
        name: The name.

    Raises:
        ConfigurationError: If it is not.
    """
    if name not in METHODS:
        listed = ", ".join(f'"{known}"' for known in METHODS)
        reason = f", which {_REFUSED[name]}" if name in _REFUSED else ""
        raise ConfigurationError(
            f'θ is updated by "mean", by "project", or by a method of gradient surgery: {listed}.'
            f" Found {name!r}{reason}."
        )

    missing = [module for module in METHODS[name].needs if find_spec(module) is None]
    if missing:
        raise ConfigurationError(
            f'`shared_update="{name}"` needs the extra `surgery`. Found that'
            f" {', '.join(missing)} cannot be imported. Run `pip install"
            " hf-meta-adapters[surgery]`."
        )


def language_weights(name: str, gramian: Tensor, weigh: Weigh) -> Tensor:
    """The weights of L gradients, scaled such that L equal gradients give back that gradient.

    Args:
        name: The method.
        gramian: The inner products of the gradients, none of which is zero, (L, L), float64.
        weigh: What the method made.

    Returns:
        The weights, (L), float64.

    Raises:
        ArithmeticError: If the method found no weights.
    """
    # Several methods compare with fixed small numbers: the products must be of order 1.
    normalized = gramian / gramian.diagonal().mean()

    with warnings.catch_warnings():
        # Of solvers that are not quite sure: what they find is checked.
        warnings.simplefilter("ignore")
        try:
            weights = weigh(normalized).double()
        except Exception as error:  # each solver has classes of its own
            raise ArithmeticError(f"{type(error).__name__}: {error}") from error

    weights = weights / METHODS[name].divisor(weights)
    if not bool(weights.isfinite().all()):
        raise ArithmeticError(f"weights of {weights.tolist()}")
    return weights
