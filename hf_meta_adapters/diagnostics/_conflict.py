"""Do the gradients of languages agree? Cosines between them, next to what noise alone leaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.anatomy.layers import PARAMETER_KINDS, layer_of, parameter_kind
from hf_meta_adapters.diagnostics._bootstrap import check_bootstrap, percentile_interval
from hf_meta_adapters.diagnostics._cosines import (
    estimate_cosines,
    mean_cosines,
    resampled_cosines,
)
from hf_meta_adapters.diagnostics._gradients import BlockProducts, Cell, block_products
from hf_meta_adapters.diagnostics._language_losses import Batches, LossFunction, select_parameters
from hf_meta_adapters.diagnostics.conflict_matrix import ConflictMatrix
from hf_meta_adapters.errors import ConfigurationError, check_languages

__all__ = ["gradient_conflict"]

_WHOLE = ""  # the model as a whole, beside the names of its layers


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

    The first diagnostic of Wang, Lipton and Tsvetkov (2020). Noise makes a cosine between gradients
    smaller than that between the expected gradients, so the number means nothing by itself. Compare
    it with the cosine between two *independent* samples of one language, the baseline on the
    diagonal. Both are estimated at one sample size, m = half the batches of the language that has
    fewest: entry (i, j) is the cosine between a mean gradient over m batches of i and one over m
    other batches, of j, averaged over all ways to choose them. `disattenuated` removes the effect
    of noise. With one batch per language the entry is their plain cosine, the diagonal is 1 by
    definition, and there is no baseline.

    The model stays as it is: parameters, `.grad`, training modes, `requires_grad` and random
    states. Gradients are computed in evaluation mode, without dropout.

    Args:
        model: Called as `model(**batch)`. It returns the loss as `.loss`, `["loss"]` or the first
            element. If it has `use_language(language)`, the passes of a language run inside it.
        batches: For each language one batch, or an iterable of batches of about equal size. A
            handful is enough for a cosine, eight or more for an interval.
        per_layer: Also return the cosines of each layer and each kind of parameter.
        parameters: A regular expression to search for in the parameter names, or names. By default
            the model's `shared_parameters()` if it has them, otherwise all with `requires_grad`.
        loss_function: Called as `loss_function(model, batch)` in place of `model(**batch)`.
        projection: Keep a random projection of each gradient to this many dimensions in place of
            the gradient. Memory then falls from `blocks` gradients per language to one gradient in
            all and `blocks` projections per language (of each layer and kind, with `per_layer`).
            Inner products have a root mean square error of at most `√(2/projection)` times the
            norms (0.022 for 4096).
        blocks: Batches are collected in up to this many sums per language, the units of the
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
        >>> import torch
        >>> def loss_function(model, batch):
        ...     return (model.weight * batch["direction"]).sum()
        >>> directions = {"en": torch.tensor([1.0, 0.0]), "sw": torch.tensor([-2.0, 0.0])}
        >>> batches = {key: {"direction": direction} for key, direction in directions.items()}
        >>> conflict = gradient_conflict(
        ...     nn.Linear(2, 1), batches, parameters="weight", loss_function=loss_function
        ... )
        >>> conflict.matrix
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

    # Half of the fewest, so that every language has two samples of that size to compare.
    fewest = min(products.number_of_batches)
    sample_size, has_baseline = max(1, fewest // 2), fewest >= 2

    gram = products.gram(cells)
    cosines = estimate_cosines(gram, products, sample_size)
    baseline = disattenuated = None
    if has_baseline:
        baseline, disattenuated = cosines.matrix.diagonal(), cosines.disattenuated

    def matrices(parts: Mapping[str, list[Cell]]) -> dict[str, Tensor]:
        return {part: _matrix(products, inside, sample_size) for part, inside in parts.items()}

    layers, kinds = _layers_and_kinds(cells)
    if not per_layer:
        layers, kinds = {}, {}

    def resampled(inside: Iterable[Cell]) -> Tensor | None:
        return resampled_cosines(
            products.gram(inside), products, sample_size, resamples=resamples, seed=seed
        )

    # One part after the other: the draws of all layers at once would take much memory.
    parts = {_WHOLE: list(cells), **layers}
    intervals, means = _intervals(
        ((part, resampled(inside)) for part, inside in parts.items()), confidence
    )
    interval, _ = intervals.pop(_WHOLE, None), means.pop(_WHOLE, None)

    return ConflictMatrix(
        languages=languages,
        matrix=_matrix(products, cells, sample_size),
        baseline=baseline,
        disattenuated=disattenuated,
        interval=interval,
        confidence=confidence,
        sample_size=sample_size,
        number_of_batches=products.number_of_batches,
        projection=projection,
        per_layer=matrices(layers),
        per_kind=matrices(kinds),
        layer_intervals=intervals,
        layer_mean_intervals=means,
    )


def _cells(
    parameters: Mapping[str, nn.Parameter], *, split: bool
) -> dict[Cell, dict[str, nn.Parameter]]:
    """Return the parameters by layer and kind, or all of them in one cell."""
    # With a projection, memory grows with the number of cells.
    if not split:
        return {Cell("model", "all"): dict(parameters)}

    cells: dict[Cell, dict[str, nn.Parameter]] = {}
    for name, parameter in parameters.items():
        cell = Cell(layer_of(name), parameter_kind(name))
        cells.setdefault(cell, {})[name] = parameter

    return cells


def _layers_and_kinds(
    cells: Iterable[Cell],
) -> tuple[dict[str, list[Cell]], dict[str, list[Cell]]]:
    """Return layer → its cells, in the order of the model, and kind → its cells, in fixed order."""
    layers: dict[str, list[Cell]] = {}
    kinds: dict[str, list[Cell]] = {kind: [] for kind in PARAMETER_KINDS}
    for cell in cells:
        layers.setdefault(cell.layer, []).append(cell)
        kinds.setdefault(cell.kind, []).append(cell)

    return layers, {kind: inside for kind, inside in kinds.items() if inside}


def _intervals(
    draws: Iterable[tuple[str, Tensor | None]], confidence: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return part → intervals of its cosines, and part → intervals of its two means.

    Args:
        draws: Parts of the model with their resampled cosines, shape (R, L, L), or `None` without
            resamples.
        confidence: Coverage.
    """
    entries: dict[str, Tensor] = {}
    means: dict[str, Tensor] = {}
    for part, cosines in draws:
        if cosines is not None:
            entries[part] = percentile_interval(cosines, confidence)
            means[part] = percentile_interval(mean_cosines(cosines), confidence)

    return entries, means


def _matrix(products: BlockProducts, cells: Iterable[Cell], sample_size: int) -> Tensor:
    """Return the cosines between the gradients of some cells, shape (L, L)."""
    cosines = estimate_cosines(products.gram(cells), products, sample_size).matrix
    if min(products.number_of_batches) < 2:
        # A language with a single batch has no second sample to be compared with.
        cosines.fill_diagonal_(1.0)

    return cosines


def _check(projection: int | None, blocks: int, resamples: int, confidence: float) -> None:
    check_bootstrap(resamples, confidence)

    if projection is not None and projection < 1:
        raise ConfigurationError(
            "`projection` must be a positive number of dimensions, or None for exact products."
            f" Found {projection}. Use for example 4096."
        )
    if blocks < 2:
        raise ConfigurationError(f"`blocks` must be at least 2. Found {blocks}. Use for example 8.")
