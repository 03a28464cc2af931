"""What matrices of languages share, whatever their entries measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.results.tables import markdown_table

__all__ = ["entries_between_languages", "language_pairs", "language_table"]


def entries_between_languages(matrix: Tensor) -> Tensor:
    """Return the entries off the diagonal.

    Args:
        matrix: Shape (L, L).

    Returns:
        Entries, shape (L (L − 1),), row by row.
    """
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


def language_pairs(matrix: Tensor) -> Tensor:
    """Return the entries above the diagonal, one for each pair of different languages.

    Args:
        matrix: Symmetric, shape (L, L).

    Returns:
        Entries, shape (L (L − 1) / 2,), in the order of `itertools.combinations`.
    """
    rows, columns = torch.triu_indices(len(matrix), len(matrix), offset=1)
    return matrix[rows, columns]


def language_table(
    corner: str, languages: Sequence[Language], entry: Callable[[int, int], str]
) -> str:
    """Return a matrix of languages as a Markdown table.

    Args:
        corner: What the entries are, above the column of the languages.
        languages: Names of rows and columns.
        entry: Called with row and column; returns the text of the cell.

    Returns:
        The table.
    """
    rows: list[list[str]] = []
    for i, language in enumerate(languages):
        rows.append([language, *(entry(i, j) for j in range(len(languages)))])

    return markdown_table([corner, *languages], rows)
