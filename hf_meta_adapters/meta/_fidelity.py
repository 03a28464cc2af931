"""How close a cheap setting of the outer step is to the paper's gradient, measured on the spot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_meta_adapters._typing import AllReduce, Language, Loss, MicroBatches, Parameters
from hf_meta_adapters.meta import vectors
from hf_meta_adapters.meta._gradient import meta_gradient
from hf_meta_adapters.meta._inner_optimizer import InnerOptimizer
from hf_meta_adapters.meta._inputs import every_parameter
from hf_meta_adapters.meta._replay import Replay, each
from hf_meta_adapters.meta.outer_step_settings import OuterStepKeywords
from hf_meta_adapters.meta.result import NamedGradient

if TYPE_CHECKING:
    from typing_extensions import Unpack


def fidelity(
    train_losses: Mapping[Language, MicroBatches],
    meta_losses: Mapping[Language, MicroBatches],
    shared: Parameters,
    language: Mapping[Language, Parameters],
    *,
    inner_learning_rate: float,
    inner_optimizer: InnerOptimizer | None = None,
    for_languages: Sequence[Language] | None = None,
    all_reduce: AllReduce | None = None,
    loss_scale: Tensor | None = None,
    precision: torch.dtype | None = None,
    **options: Unpack[OuterStepKeywords],
) -> Tensor:
    """The cosine between the meta-gradient of a setting and the exact one of the paper.

        cos(d, e) = ⟨d, e⟩ / (‖d‖ ‖e‖),    d, e: the meta-gradients of all φ_l, one after the other

    The exact one has a look-ahead per language. Both are taken of the same losses with the same
    random numbers and, where the setting draws validation languages, with the same draw. Where θ is
    sharded over processes, central finite differences stand in for the exact gradient: sharded
    parameters have no second derivative.

    Args:
        train_losses: As for `meta_gradient`.
        meta_losses: As for `meta_gradient`.
        shared: As for `meta_gradient`.
        language: As for `meta_gradient`.
        inner_learning_rate: As for `meta_gradient`.
        inner_optimizer: As for `meta_gradient`.
        for_languages: As for `meta_gradient`.
        all_reduce: As for `meta_gradient`.
        loss_scale: As for `meta_gradient`.
        precision: As for `meta_gradient`.
        **options: The setting, as for `meta_gradient`.

    Returns:
        The cosine, 0-d; 0 if one of the two is zero, NaN if no language has a loss to compare.

    Raises:
        RuntimeError: If an operation of the losses has no second derivative.

    Example:
        >>> theta, phi = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
        >>> loss = lambda: (theta * phi).square().sum()
        >>> problem = {"en": loss}, {"en": loss}, {"w": theta}, {"en": {"a": phi}}
        >>> cosine = fidelity(*problem, inner_learning_rate=0.1, meta_gradient="finite_difference")
        >>> cosine.round(decimals=3)
        tensor(1.)
    """
    # the device on which the model draws its random numbers
    device = every_parameter(shared, language)[0].device
    train = {key: _fixed(losses, device) for key, losses in train_losses.items()}
    meta = {key: _fixed(losses, device) for key, losses in meta_losses.items()}

    def gradient(setting: OuterStepKeywords) -> dict[Language, NamedGradient]:
        return meta_gradient(
            train,
            meta,
            shared,
            language,
            inner_learning_rate=inner_learning_rate,
            inner_optimizer=inner_optimizer,
            for_languages=for_languages,
            all_reduce=all_reduce,
            loss_scale=loss_scale,
            precision=precision,
            **setting,
        ).language

    # The preset stays: explicit options override it.
    paper = options.copy()
    paper["meta_gradient"] = "exact"
    paper["lookahead"] = "per_language"
    paper["cpu_offload"] = False
    paper["mixed_rows"] = 1.0
    paper["mixed_languages"] = 1.0

    if any(vectors.is_sharded(parameter) for parameter in shared.values()):
        paper["meta_gradient"] = "finite_difference"
        paper["finite_difference_scheme"] = "central"
        paper["finite_difference_radius"] = None

    # Compiled dropout draws other masks than eager dropout, and exact passes are never compiled.
    with torch.compiler.set_stance("force_eager"):
        estimate, truth = gradient(options), gradient(paper)

    return _cosine(estimate, truth)


def _fixed(losses: MicroBatches, device: torch.device) -> Sequence[Loss]:
    """The micro-batches, each with the present random numbers in every evaluation."""
    return each(losses, lambda loss: Replay(loss, device).fixed())


def _cosine(
    estimate: Mapping[Language, NamedGradient], truth: Mapping[Language, NamedGradient]
) -> Tensor:
    """The cosine between two meta-gradients of the same parameters."""
    left: vectors.Vector = []
    right: vectors.Vector = []

    for key, gradient in truth.items():
        for name, entry in gradient.items():
            left.append(estimate[key][name])
            right.append(entry)

    if not right:
        return torch.tensor(float("nan"))

    norms = vectors.norm(left) * vectors.norm(right)
    return vectors.cosine(vectors.dot(left, right), norms)
