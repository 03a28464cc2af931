"""Inner products of the gradients of languages, exact or from random projections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from hf_meta_adapters._typing import Language
from hf_meta_adapters.diagnostics._language_losses import (
    Batches,
    LossFunction,
    evaluate_loss,
    iterate_batches,
    preserved_state,
)
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.products.gram import gram
from hf_meta_adapters.products.projection import project

__all__ = ["BlockProducts", "Cell", "block_products"]


class Cell(NamedTuple):
    """The parameters of one kind in one layer."""

    layer: str
    kind: str


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

    @property
    def number_of_batches(self) -> tuple[int, ...]:
        """The batches of each language."""
        languages = range(int(self.language.max()) + 1)
        return tuple(int(self.counts[self.language == index].sum()) for index in languages)

    def gram(self, cells: Iterable[Cell]) -> Tensor:
        """Return the inner products over several cells, shape (U, U)."""
        return torch.stack([self.grams[cell] for cell in cells]).sum(0)


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

    Batch t of a language goes to its block t mod `blocks`, so the number of batches need not be
    known beforehand, and memory is at most `blocks` gradients (or projections) per language.

    Args:
        model: Called as `model(**batch)`.
        batches: The batches of each language.
        cells: Cell → name → parameter; every parameter is in one cell.
        blocks: The largest number of blocks per language.
        loss_function: Called as `loss_function(model, batch)` in place of `model(**batch)`.
        projection: Dimension of a random projection of each cell; `None` keeps the gradients.
        seed: Seed of the projection.
        progress: Show a progress bar.

    Returns:
        The products.
    """
    sizes = [len(members) for members in cells.values()]
    parameters = [parameter for members in cells.values() for parameter in members.values()]
    sums = _BlockSums(blocks)

    with (
        preserved_state(model, parameters),
        tqdm(disable=not progress, desc="Gradients", unit="batch") as bar,
    ):
        for index, language in enumerate(batches):
            for t, batch in enumerate(iterate_batches(batches[language], language)):
                loss = evaluate_loss(model, batch, language, loss_function)
                sums.add(index, t, _vectors(loss, parameters, sizes, projection, seed))
                bar.update()

    # Projected, a cell is one vector; exact, it is one vector per parameter.
    if projection is not None:
        sizes = [1] * len(cells)
    grams: dict[Cell, Tensor] = {}
    start = 0
    for cell, size in zip(cells, sizes, strict=True):
        columns = range(start, start + size)
        grams[cell] = torch.stack([gram(sums.column(column)) for column in columns]).sum(0)
        start += size

    counts = torch.tensor(sums.counts, dtype=torch.float64)
    return BlockProducts(grams, torch.tensor(sums.languages), counts)


class _BlockSums:
    """Sums of vectors over blocks of batches, one language after the other.

    Args:
        blocks: The largest number of blocks per language.
    """

    def __init__(self, blocks: int) -> None:
        self.languages: list[int] = []
        self.counts: list[int] = []
        self._blocks = blocks
        self._rows: list[list[Tensor]] = []

    def add(self, language: int, t: int, vectors: Sequence[Tensor]) -> None:
        """Add the vectors of batch t of a language to their block."""
        if t < self._blocks:
            # Copied, since autograd may return one tensor as the gradient of two parameters.
            self._rows.append([vector.clone() for vector in vectors])
            self.languages.append(language)
            self.counts.append(1)
            return

        # Every block of the language exists by now, and they are the last ones.
        block = len(self._rows) - self._blocks + t % self._blocks
        self.counts[block] += 1
        for total, vector in zip(self._rows[block], vectors, strict=True):
            total += vector

    def column(self, index: int) -> list[Tensor]:
        """Return the sums of one vector, block by block."""
        return [row[index] for row in self._rows]


def _vectors(
    loss: Tensor,
    parameters: Sequence[nn.Parameter],
    sizes: Sequence[int],
    projection: int | None,
    seed: int,
) -> list[Tensor]:
    """Return the gradient as one vector per parameter or, projected, one per cell.

    Args:
        loss: The loss.
        parameters: All parameters, in the order of the cells.
        sizes: Number of parameters in each cell.
        projection: Dimension of the projection, or `None`.
        seed: Seed of the projection.
    """
    if not loss.requires_grad:
        raise ConfigurationError(
            "`gradient_conflict` needs a loss with a graph. Found one without `requires_grad`: it"
            " was detached, or does not depend on any of the"
            f" {len(parameters)} selected parameters. Check `parameters` and `loss_function`."
        )

    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    if projection is None:
        return [_as_vector(gradient) for gradient in gradients]

    cells: list[Tensor] = []
    start = 0
    for size in sizes:
        # A seed per parameter: two parameters hashed alike would meet in every coordinate.
        sketches = [
            project(_as_vector(gradients[index]), projection, seed=seed * len(parameters) + index)
            for index in range(start, start + size)
        ]

        # The parameters of one cell may lie on several devices.
        device = sketches[0].device
        cells.append(torch.stack([sketch.to(device) for sketch in sketches]).sum(0))
        start += size

    return cells


def _as_vector(gradient: Tensor) -> Tensor:
    """Return a gradient as a vector of a precision in which many can be summed."""
    vector = gradient.detach().reshape(-1)
    if vector.dtype in (torch.float32, torch.float64):
        return vector

    return vector.float()
