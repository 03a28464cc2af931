"""Inner products of the gradients of languages, exact or from random projections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from hf_meta_adapters._typing import Language
from hf_meta_adapters.diagnostics._gram import gram
from hf_meta_adapters.diagnostics._language_losses import (
    Batches,
    LossFunction,
    evaluate_loss,
    iterate_batches,
    preserved_state,
)
from hf_meta_adapters.diagnostics._projection import project
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["BlockProducts", "Cell", "block_products"]

Cell: TypeAlias = tuple[str, str]
"""A layer and a kind of parameter."""


@dataclass(frozen=True, eq=False)
class BlockProducts:
    """Inner products `⟨s_a, s_b⟩` of gradient sums over blocks of batches, per cell of parameters.

    Attributes:
        grams: Cell → inner products, float64, shape (U, U) for U blocks over all languages. Cells
            are disjoint, so the products over several cells are the sums of theirs.
        language: Index of the language of each block, shape (U,).
        counts: Number of batches in each block, shape (U,).
    """

    grams: dict[Cell, Tensor]
    language: Tensor
    counts: Tensor


def block_products(
    model: nn.Module,
    batches: Mapping[Language, Batches],
    cells: Mapping[Cell, Mapping[str, nn.Parameter]],
    *,
    blocks: int,
    loss_function: LossFunction | None = None,
    projection: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> BlockProducts:
    """Return the inner products between gradient sums over blocks of batches.

    Batch t of a language goes to its block t mod `blocks`, so nothing has to be known of the length
    beforehand and memory is at most `blocks` gradients (or projections) per language.

    Args:
        model: Called as `model(**batch)`.
        batches: The batches of each language.
        cells: Cell → name → parameter; every parameter is in one cell.
        blocks: The largest number of blocks per language.
        loss_function: Replaces `model(**batch)`.
        projection: Dimension of a random projection of each cell; `None` keeps the gradients.
        seed: Seed of the projection.
        progress: Show a progress bar.

    Returns:
        The products.
    """
    parameters = [p for cell in cells.values() for p in cell.values()]
    sums: list[list[Tensor]] = []
    owners: list[int] = []
    counts: list[int] = []
    with (
        preserved_state(model, parameters),
        tqdm(disable=not progress, desc="Gradients", unit="batch") as bar,
    ):
        for index, language in enumerate(batches):
            first = len(sums)
            for t, batch in enumerate(iterate_batches(batches[language], language)):
                loss = evaluate_loss(model, batch, language, loss_function)
                vectors = _vectors(loss, cells, parameters, projection, seed)
                if t < blocks:
                    sums.append(
                        [vector.clone() for vector in vectors]
                    )  # two gradients may be one tensor
                    owners.append(index)
                    counts.append(1)
                else:
                    for total, vector in zip(sums[first + t % blocks], vectors, strict=True):
                        total += vector
                    counts[first + t % blocks] += 1
                bar.update()
    grams: dict[Cell, Tensor] = {}
    start = 0
    for cell, members in cells.items():
        width = len(members) if projection is None else 1
        columns = range(start, start + width)
        grams[cell] = torch.stack([gram([row[c] for row in sums]) for c in columns]).sum(0)
        start += width
    return BlockProducts(grams, torch.tensor(owners), torch.tensor(counts, dtype=torch.float64))


def _vectors(
    loss: Tensor,
    cells: Mapping[Cell, Mapping[str, nn.Parameter]],
    parameters: list[nn.Parameter],
    projection: int | None,
    seed: int,
) -> list[Tensor]:
    """Return the gradient as one vector per parameter or, projected, one per cell."""
    if not loss.requires_grad:
        raise ConfigurationError(
            "`gradient_conflict` needs a loss with a graph. Found one without `requires_grad`: it"
            f" was detached, or none of the {len(parameters)} selected parameters acts on it. Check"
            " `parameters` and `loss_function`."
        )
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    if projection is None:
        return [_flat(gradient) for gradient in gradients]
    projected: list[Tensor] = []
    start = 0
    for members in cells.values():
        # A seed per parameter: two that were hashed alike would meet in every coordinate.
        seeded = enumerate(
            gradients[start : start + len(members)], start=seed * len(parameters) + start
        )
        parts = [project(_flat(gradient), projection, seed=own) for own, gradient in seeded]
        projected.append(torch.stack([part.to(parts[0].device) for part in parts]).sum(0))
        start += len(members)
    return projected


def _flat(gradient: Tensor) -> Tensor:
    """Return a gradient as a vector of a precision in which it can be summed."""
    vector = gradient.detach().reshape(-1)
    return vector if vector.dtype in (torch.float32, torch.float64) else vector.float()
