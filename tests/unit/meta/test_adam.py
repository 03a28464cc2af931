"""The derivative of Adam's step, computed piece by piece."""

from __future__ import annotations

import pytest
import torch

from hf_meta_adapters.meta import adam
from hf_meta_adapters.meta._optimizer_derivative import optimizer_derivative

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


def by_autograd(optimizer, parameters):
    """−∂θ/∂g of the optimizer's own step, entry by entry, from differences of copies."""
    found = []
    for parameter in parameters:
        (group,) = (g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))

        def moved(gradient, parameter=parameter, group=group):
            copy = torch.nn.Parameter(parameter.detach().clone())
            options = {name: group[name] for name in ("lr", "eps", "betas", "weight_decay")}
            other = type(optimizer)([copy], **options)
            state = {n: t.clone() for n, t in optimizer.state[parameter].items()}
            other.state[copy] = state
            copy.grad = gradient
            other.step()
            return copy.detach()

        g, h = parameter.grad, 1e-6
        slope = (moved(g - h) - moved(g + h)) / (2 * h)
        found.append(slope.masked_fill(g == 0, 0.0))
    return found


@pytest.mark.parametrize("entries", [1, 4, 1 << 16])
def test_is_that_of_the_optimizer_whatever_the_size_of_a_piece(stepped, entries, monkeypatch):
    monkeypatch.setattr(adam, "_ENTRIES_ON_CPU", entries)
    optimizer, parameters = stepped
    gradients = [parameter.grad for parameter in parameters]
    found = optimizer_derivative(optimizer, parameters, gradients, torch.tensor(0.5))
    for one, expected in zip(found, by_autograd(optimizer, parameters), strict=True):
        torch.testing.assert_close(one, 0.5 * expected, rtol=1e-5, atol=1e-8)
        assert one.any()


@pytest.mark.parametrize("entries", [1, 4])
def test_pieces_do_not_change_the_virtual_step(stepped, entries, monkeypatch):
    optimizer, parameters = stepped
    gradients = [None, *(parameter.grad for parameter in parameters[1:])]
    whole = adam.Adam.of(optimizer, parameters).displacement(gradients)
    monkeypatch.setattr(adam, "_ENTRIES_ON_CPU", entries)
    pieces = adam.Adam.of(optimizer, parameters).displacement(gradients)
    for one, other in zip(whole, pieces, strict=True):
        assert one[0] is None
        assert other[0] is None
        for left, right in zip(one[1:], other[1:], strict=True):
            torch.testing.assert_close(left, right)


def test_the_gradient_is_left_as_it_is(stepped):
    optimizer, parameters = stepped
    gradients = [parameter.grad for parameter in parameters]
    before = [gradient.clone() for gradient in gradients]
    optimizer_derivative(optimizer, parameters, gradients)
    assert all(torch.equal(*pair) for pair in zip(before, gradients, strict=True))
