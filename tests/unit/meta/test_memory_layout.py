"""Gradients lie in memory as their parameters do, which fused optimizers take for granted."""

from __future__ import annotations

import pytest
import torch

from hf_meta_adapters.meta import joint_gradient, meta_gradient
from hf_meta_adapters.meta.next_step import next_step_gradient

DATA = torch.arange(1.0, 36.0).reshape(7, 5) / 35


@pytest.fixture
def problem():
    """A θ whose gradient autograd returns transposed, and a φ of the same kind."""
    theta = torch.linspace(-1, 1, 35).reshape(5, 7).requires_grad_()
    phi = torch.linspace(0.5, 1.5, 35).reshape(5, 7).requires_grad_()

    def loss():
        return (DATA * theta.t() * phi.t()).square().sum()

    for gradient in torch.autograd.grad(loss(), [theta, phi]):
        assert not gradient.is_contiguous()
    return loss, {"w": theta}, {"sw": {"a": phi}}


def check(gradients, *, meta: bool = True):
    found = [gradients.shared["w"], gradients.train["sw"]["a"]]
    if meta:
        parts = gradients.language, gradients.direct, gradients.indirect
        found += [part["sw"]["a"] for part in parts if part["sw"]]
    assert all(gradient.is_contiguous() for gradient in found)


@pytest.mark.parametrize("estimator", ["exact", "forward_mode", "finite_difference"])
@pytest.mark.parametrize("lookahead", ["shared", "per_language"])
def test_of_an_outer_step(problem, estimator, lookahead):
    loss, theta, phi = problem
    how = {"meta_gradient": estimator, "lookahead": lookahead, "inner_learning_rate": 0.1}
    check(meta_gradient({"sw": loss}, {"sw": loss}, theta, phi, **how))


def test_of_a_joint_step(problem):
    loss, theta, phi = problem
    check(joint_gradient({"sw": loss}, theta, phi), meta=False)


@pytest.mark.parametrize("estimator", ["exact", "finite_difference"])
def test_of_the_next_step_with_a_fused_optimizer(problem, estimator):
    """θ after a step is that of the optimizer that is not fused."""
    loss, theta, phi = problem
    plain = theta["w"].detach().clone().requires_grad_()
    optimizer = torch.optim.AdamW([theta["w"]], lr=0.1, fused=True)
    other = torch.optim.AdamW([plain], lr=0.1)

    how = {"optimizer": optimizer, "meta_gradient": estimator}
    first = next_step_gradient({"sw": loss}, theta, phi, **how)
    check(first)
    theta["w"].grad, plain.grad = first.shared["w"], first.shared["w"].clone()
    optimizer.step()
    other.step()
    torch.testing.assert_close(theta["w"], plain)
    check(next_step_gradient({"sw": loss}, theta, phi, kept=first.kept, **how))
