"""Do the gradients of languages agree? Cosines between them, against what noise alone leaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.anatomy.layers import PARAMETER_KINDS, layer_of, parameter_kind
from hf_meta_adapters.diagnostics._bootstrap import check_bootstrap
from hf_meta_adapters.diagnostics._conflict_matrix import ConflictMatrix
from hf_meta_adapters.diagnostics._cosines import bootstrap_interval, estimate_cosines
from hf_meta_adapters.diagnostics._gradients import Cell, block_products
from hf_meta_adapters.diagnostics._language_losses import Batches, LossFunction, select_parameters
from hf_meta_adapters.errors import ConfigurationError, check_languages

__all__ = ["gradient_conflict"]


def gradient_conflict(
    model: nn.Module,
    batches: Mapping[Language, Batches],
    *,
    per_layer: bool = False,
    parameters: str | Iterable[str] | None = None,
    loss_function: LossFunction | None = None,
    projection: int | None = None,
    blocks: int = 8,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> ConflictMatrix:
    """Return the cosines `⟨∇L_i, ∇L_j⟩ / (‖∇L_i‖ ‖∇L_j‖)` between the gradients of languages.

    The first diagnostic of Wang, Lipton and Tsvetkov (2020). A cosine between noisy gradients is
    smaller than that between the expected ones, so by itself it means nothing: what it has to be
    compared with is the cosine between two *independent* samples of one language, the baseline on
    the diagonal. Both are estimated at one sample size, m = half the batches of the language that
    has fewest: entry (i, j) is the cosine between a mean gradient over m batches of i and one over
    m batches of j that are not the same batches, averaged over all ways to choose them.
    `disattenuated` removes the noise altogether. With one batch per language the entry is their
    plain cosine, the diagonal is 1 by definition, and there is no baseline.

    The model is left as it was: parameters, `.grad`, training modes, `requires_grad` and random
    states. Gradients are taken in evaluation mode, without dropout.

    Args:
        model: Called as `model(**batch)`, returning the loss as `.loss`, `["loss"]` or first
            element. Where it has `use_language(language)`, the passes of a language run inside it.
        batches: For each language one batch, or an iterable of batches of about equal size. A
            handful is enough for a cosine, eight or more for an interval.
        per_layer: Also return the cosines of each layer and each kind of parameter.
        parameters: A regular expression searched for in the parameter names, or names. By default
            the model's `shared_parameters()` if it has them, else all with `requires_grad`.
        loss_function: Called as `loss_function(model, batch)` in place of `model(**batch)`.
        projection: Keep a random projection to this many dimensions of each gradient, not the
            gradient: memory falls from `blocks` gradients per language to one in all and `blocks`
            projections per language (of each layer and kind, with `per_layer`). Inner products then
            have a root mean square error of at most `√(2/projection)` times the norms (0.022 for
            4096).
        blocks: Batches are gathered in up to this many sums per language, the units of the
            bootstrap.
        resamples: Number of bootstrap resamples; 0 for no intervals.
        confidence: Coverage of the intervals.
        seed: Seed of projection and bootstrap.
        progress: Show a progress bar.

    Returns:
        The cosines.

    Raises:
        LanguageError: If a language key is malformed.
        ConfigurationError: If a setting cannot work, or no parameter is selected.
        DataError: If a language has no batch, or the model returns no loss.
        NonFiniteLossError: If a loss is NaN or infinite.

    Example:
        >>> def loss_function(model, batch):
        ...     return (model.weight * batch["direction"]).sum()
        >>> batches = {"en": {"direction": torch.tensor([1.0, 0.0])}, "sw": {"direction": torch.tensor([-2.0, 0.0])}}
        >>> gradient_conflict(torch.nn.Linear(2, 1), batches, parameters="weight", loss_function=loss_function).matrix
        tensor([[ 1., -1.],
                [-1.,  1.]], dtype=torch.float64)
    """
    _check(projection, blocks, resamples, confidence)
    languages = check_languages(batches)
    cells = _cells(select_parameters(model, parameters), split=per_layer)
    products = block_products(
        model,
        batches,
        cells,
        blocks=blocks,
        loss_function=loss_function,
        projection=projection,
        seed=seed,
        progress=progress,
    )
    seen = tuple(int(products.counts[products.language == i].sum()) for i in range(len(languages)))
    sample_size, has_baseline = max(1, min(seen) // 2), min(seen) >= 2
    gram = _sum(products.grams, cells)
    cosines = estimate_cosines(gram, products, sample_size)

    def matrix(inside: Iterable[Cell]) -> Tensor:
        found = estimate_cosines(_sum(products.grams, inside), products, sample_size).matrix
        return found if has_baseline else found.fill_diagonal_(1.0)

    layers, kinds = (_by(cells, 0), _by(cells, 1)) if per_layer else ({}, {})
    return ConflictMatrix(
        languages=languages,
        matrix=matrix(cells),
        baseline=cosines.matrix.diagonal() if has_baseline else None,
        disattenuated=cosines.disattenuated if has_baseline else None,
        interval=bootstrap_interval(
            gram, products, sample_size, resamples=resamples, confidence=confidence, seed=seed
        ),
        confidence=confidence,
        sample_size=sample_size,
        number_of_batches=seen,
        projection=projection,
        per_layer={layer: matrix(inside) for layer, inside in layers.items()},
        per_kind={kind: matrix(kinds[kind]) for kind in PARAMETER_KINDS if kind in kinds},
    )


def _cells(
    parameters: Mapping[str, nn.Parameter], *, split: bool
) -> dict[Cell, dict[str, nn.Parameter]]:
    """Return the parameters by layer and kind, or all in one cell."""
    cells: dict[Cell, dict[str, nn.Parameter]] = {}
    for name, parameter in parameters.items():
        cell = (layer_of(name), parameter_kind(name)) if split else ("model", "all")
        cells.setdefault(cell, {})[name] = parameter
    return cells


def _by(cells: Iterable[Cell], position: int) -> dict[str, list[Cell]]:
    """Return the cells of each layer (position 0) or of each kind (1)."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell[position], []).append(cell)
    return found


def _sum(grams: Mapping[Cell, Tensor], cells: Iterable[Cell]) -> Tensor:
    return torch.stack([grams[cell] for cell in cells]).sum(0)


def _check(projection: int | None, blocks: int, resamples: int, confidence: float) -> None:
    check_bootstrap(resamples, confidence)
    if projection is not None and projection < 1:
        raise ConfigurationError(
            "`projection` must be a positive number of dimensions, or None for exact products."
            f" Found {projection}. Write for example 4096."
        )
    if blocks < 2:
        raise ConfigurationError(
            f"`blocks` must be at least 2. Found {blocks}. Write for example 8."
        )
