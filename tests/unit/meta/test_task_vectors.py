"""Means and TIES of tensors, against values that were computed by hand and by PEFT."""

from __future__ import annotations

import pytest
import torch
from peft.utils.merge_utils import ties as peft_ties

from hf_meta_adapters.meta.task_vectors import ties, trimmed, weighted_mean


def test_a_mean_by_hand() -> None:
    tensors = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0]), torch.tensor([0.0, 8.0])]
    torch.testing.assert_close(
        weighted_mean(iter(tensors), [0.5, 0.25, 0.25]), torch.tensor([1.25, 2.5])
    )


def test_what_all_models_have_stays_bit_for_bit() -> None:
    value = torch.randn(1000)
    assert torch.equal(weighted_mean([value.clone() for _ in range(7)], [1 / 7] * 7), value)


def test_a_mean_leaves_its_terms_alone_and_adds_in_single_precision() -> None:
    terms = [torch.randn(500).to(torch.bfloat16) for _ in range(5)]
    before = [term.clone() for term in terms]
    mean = weighted_mean(terms, [0.2] * 5)
    exact = torch.stack(terms).double().mean(0)
    assert mean.dtype == torch.bfloat16
    # half a step of bfloat16, and nothing on top of it
    assert ((mean.double() - exact).abs() <= exact.abs() * 2**-8).all()
    assert all(map(torch.equal, terms, before))


def test_ties_by_hand() -> None:
    base = torch.tensor([1.0, 1.0, 1.0, 1.0])
    first = base + torch.tensor([4.0, -1.0, 2.0, 0.1])  # keeps 4 and 2
    second = base + torch.tensor([2.0, 0.5, -3.0, 0.0])  # keeps 2 and -3
    found = ties(base, lambda: [first, second], [1, 1], density=0.5)
    # the third entry: 2 - 3 < 0, so that -3 alone counts
    torch.testing.assert_close(found, base + torch.tensor([3.0, 0.0, -3.0, 0.0]))


@pytest.mark.parametrize("density", [0.1, 0.3, 0.9])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.3, 1.5, 1.2]])
def test_ties_is_that_of_peft(density: float, weights: list[float]) -> None:
    base = torch.randn(11, 7, dtype=torch.float64)
    changes = [torch.randn(11, 7, dtype=torch.float64) for _ in weights]
    expected = peft_ties(changes, torch.tensor(weights, dtype=torch.float64), density)
    found = ties(base, lambda: [base + change for change in changes], weights, density)
    torch.testing.assert_close(found, base + expected)


def test_trimming_keeps_the_largest() -> None:
    change = torch.randn(8, 5)
    kept = trimmed(change, 0.25)
    threshold = change.abs().flatten().sort(descending=True).values[9]
    assert torch.equal(kept, change * (change.abs() >= threshold))
    assert torch.equal(trimmed(change, 1.0), change)
    assert not trimmed(change, 0.01).any()
