"""The virtual step of Adam, computed piece by piece."""

from __future__ import annotations

import pytest
import torch

from hf_meta_adapters.meta import _pieces, adam

SHAPES = [(5, 7), (3,), (), (2, 4, 3)]


@pytest.fixture(params=[torch.optim.Adam, torch.optim.AdamW])
def stepped(request):
    """An optimizer after two steps, with gradients for the third."""
    torch.manual_seed(0)
    parameters = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in SHAPES]
    groups = [{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.3, "eps": 1e-3}]
    optimizer = request.param(groups, lr=0.1, weight_decay=0.01)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        if optimizer.state_dict()["state"].get(0, {}).get("step", 0) < 2:
            optimizer.step()

    parameters[0].grad[1:3] = 0.0
    # transposed, as autograd returns the gradients of some products
    parameters[0].grad = parameters[0].grad.t().contiguous().t()
    return optimizer, parameters


@pytest.mark.parametrize("entries", [1, 4])
def test_pieces_do_not_change_the_virtual_step(stepped, entries, monkeypatch):
    optimizer, parameters = stepped
    gradients = [None, *(parameter.grad for parameter in parameters[1:])]
    whole = adam.Adam.of(optimizer, parameters).displacement(gradients)
    monkeypatch.setattr(_pieces, "_ENTRIES_ON_CPU", entries)
    pieces = adam.Adam.of(optimizer, parameters).displacement(gradients)
    for one, other in zip(whole, pieces, strict=True):
        assert one[0] is None
        assert other[0] is None
        for left, right in zip(one[1:], other[1:], strict=True):
            torch.testing.assert_close(left, right)
