"""Gradients in memory of their own, which may change in place."""

from __future__ import annotations

import torch

from hf_meta_adapters.meta._differentiate_whole import DifferentiateWhole
from hf_meta_adapters.meta._train_pass import loss_and_gradient
from hf_meta_adapters.meta.vectors import add_, gradient, owned


def test_one_tensor_for_two_parameters_becomes_two():
    left, right = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    found = owned(gradient(((left + right) * torch.arange(3.0)).sum(), [left, right]))
    add_(found, [torch.ones(3), None])
    assert found[0].tolist() == [1.0, 2.0, 3.0]
    assert found[1].tolist() == [0.0, 1.0, 2.0]


def test_an_expanded_number_becomes_a_tensor():
    one = torch.ones(2, 3, requires_grad=True)
    (found,) = owned(gradient(one.sum(), [one]))
    found[0, 0] = 5.0
    assert found.tolist() == [[5.0, 1.0, 1.0], [1.0, 1.0, 1.0]]


def test_parts_of_one_tensor_are_copied():
    whole = torch.arange(4.0)
    found = owned([whole[:2], whole[2:], None, whole])
    assert [entry is None or entry.tolist() for entry in found] == [
        [0, 1],
        [2, 3],
        True,
        [0, 1, 2, 3],
    ]
    found[0].zero_()
    assert whole.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_what_is_owned_is_not_copied_and_has_no_graph():
    entry = torch.ones(3, requires_grad=True) * 2
    (found,) = owned([entry])
    assert found.data_ptr() == entry.data_ptr()
    assert not found.requires_grad


def test_sums_over_micro_batches_of_shared_gradients():
    """Autograd returns one tensor for both; sums in place must not count it twice."""
    left, right = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    losses = [lambda w=w: ((left + right) * torch.tensor([w, 2 * w])).sum() for w in (1.0, 10.0)]
    value, (one, other) = loss_and_gradient(losses, [left, right], DifferentiateWhole(None))
    assert value == 0
    assert one.tolist() == other.tolist() == [11.0, 22.0]
