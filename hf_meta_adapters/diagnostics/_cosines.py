"""Cosines between the gradients of languages at a common sample size, with their bootstrap."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hf_meta_adapters.diagnostics._bootstrap import resampled_counts
from hf_meta_adapters.diagnostics._gradients import BlockProducts

__all__ = ["Cosines", "estimate_cosines", "mean_cosines", "resampled_cosines"]

_FEWEST_BLOCKS = 4  # with fewer, too many resamples consist of one block, without a variance


@dataclass(frozen=True, eq=False)
class Cosines:
    """Cosines between languages.

    Attributes:
        matrix: Cosine between mean gradients over `sample_size` batches, shape (..., L, L). The
            diagonal is the cosine between two independent means of one language, NaN with a single
            block.
        disattenuated: Cosine between the expected gradients, shape (..., L, L); NaN where noise
            hides one of them.
    """

    matrix: Tensor
    disattenuated: Tensor


def estimate_cosines(
    gram: Tensor, products: BlockProducts, sample_size: int, multiplicity: Tensor | None = None
) -> Cosines:
    """Return `E⟨ḡ_i, ḡ'_j⟩ / √(E‖ḡ_i‖² E‖ḡ_j‖²)` for independent means ḡ over m batches each.

    i and j are languages. With batch gradients of mean μ_i and total variance σ_i², the numerator
    is `⟨μ_i, μ_j⟩`, estimated from products of *different* blocks only, and
    `E‖ḡ_i‖² = ‖μ_i‖² + σ_i²/m`. This is the cosine of half-samples averaged over all splits, the
    numerator and the denominator separately (U-statistics; Hoeffding 1948), so that the diagonal
    and the rest are cosines between equally noisy vectors. Without the noise term it becomes
    `⟨μ_i, μ_j⟩ / (‖μ_i‖ ‖μ_j‖)`, the correction for attenuation of Spearman (1904).

    Args:
        gram: Inner products of the sums over blocks, shape (U, U).
        products: The language and the number of batches of each block.
        sample_size: m.
        multiplicity: How often each block counts in a resample, shape (R, U); by default once.

    Returns:
        The cosines, shape (L, L), or (R, L, L).
    """
    if multiplicity is None:
        multiplicity = torch.ones_like(products.counts)
    is_of_language = functional.one_hot(products.language).T.to(gram)  # (L, U)
    weight = multiplicity.unsqueeze(-2) * is_of_language  # (..., L, U)
    counts, squares = products.counts, gram.diagonal()

    # ⟨μ_i, μ_j⟩: the sum of all products between batches of i and of j, over their number.
    inner = weight @ gram @ weight.mT
    pairs = (weight @ counts).unsqueeze(-1) * (weight @ counts).unsqueeze(-2)

    # A block must not meet itself: its squared noise would pass for signal.
    inner = inner - torch.diag_embed(weight.square() @ squares)
    pairs = pairs - torch.diag_embed(weight.square() @ counts.square())
    mean = inner / pairs.where(pairs > 0, torch.nan)
    signal = mean.diagonal(dim1=-2, dim2=-1)

    # A sum over c batches has E‖s‖² = c² ‖μ‖² + c σ², which over all blocks gives σ².
    norms, sizes = weight @ squares, weight @ counts.square()
    variance = ((norms - sizes * signal) / (weight @ counts)).clamp(min=0)

    # With a single block, signal and noise cannot be told apart: its own norm takes their place.
    has_single_block = signal.isnan()
    expected_norm = torch.where(has_single_block, norms / sizes, signal + variance / sample_size)
    return Cosines(_cosine(mean, expected_norm).clamp(-1, 1), _cosine(mean, signal))


def resampled_cosines(
    gram: Tensor, products: BlockProducts, sample_size: int, *, resamples: int, seed: int
) -> Tensor | None:
    """Return the cosines over resampled blocks (Efron 1979), the same blocks for every `gram`.

    Products of a block with its own copy are left out, as in the estimate. An interval of them is
    conservative where noise dominates, since resampling adds noise to gradients that are noisy
    already.

    Args:
        gram: Inner products of the sums over blocks, shape (U, U).
        products: The language and the number of batches of each block.
        sample_size: Batches per mean gradient.
        resamples: R.
        seed: Seed of the resampling.

    Returns:
        Cosines, shape (R, L, L); `None` if a language has fewer than four blocks.
    """
    blocks = functional.one_hot(products.language).sum(0)
    if resamples == 0 or int(blocks.min()) < _FEWEST_BLOCKS:
        return None

    # Languages are resampled separately, so that each keeps its number of blocks.
    generator = torch.Generator().manual_seed(seed)
    counts = torch.cat([resampled_counts(n, resamples, generator) for n in blocks.tolist()], dim=1)
    return estimate_cosines(gram, products, sample_size, counts).matrix


def mean_cosines(matrix: Tensor) -> Tensor:
    """Return the mean cosine between languages and that within a language, without NaN.

    Args:
        matrix: Cosines, shape (..., L, L).

    Returns:
        The two means, shape (..., 2).
    """
    between = matrix[..., ~torch.eye(matrix.shape[-1], dtype=torch.bool)]
    within = matrix.diagonal(dim1=-2, dim2=-1)
    return torch.stack([between.nanmean(-1), within.nanmean(-1)], dim=-1)


def _cosine(inner: Tensor, squared_norms: Tensor) -> Tensor:
    # An estimated ‖μ‖² may be negative: then there is no cosine.
    norms = squared_norms.where(squared_norms > 0, torch.nan).sqrt()
    return inner / (norms.unsqueeze(-1) * norms.unsqueeze(-2))
