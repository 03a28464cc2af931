"""The outer update of Sequential Reptile, by hand."""

from __future__ import annotations

import pytest
import torch

from hf_meta_adapters.meta.reptile import InnerLoop


def test_theta_moves_a_share_of_the_way() -> None:
    theta = [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([[3.0]])]
    places = [tensor.data_ptr() for tensor in theta]
    loop = InnerLoop(theta)
    with torch.no_grad():
        theta[0] += torch.tensor([1.0, -2.0])
        theta[1] *= 3
    loop.end(rate=0.25)
    torch.testing.assert_close(theta[0].detach(), torch.tensor([1.25, 1.5]))
    torch.testing.assert_close(theta[1], torch.tensor([[4.5]]))
    assert theta[0].requires_grad
    assert [tensor.data_ptr() for tensor in theta] == places


def test_what_has_not_moved_stays_and_a_rate_of_1_changes_nothing() -> None:
    theta = torch.randn(1000)
    before, loop = theta.clone(), InnerLoop([theta])
    loop.end(rate=0.3)
    assert torch.equal(theta, before)

    loop = InnerLoop([theta])
    theta += torch.randn(1000)
    moved = theta.clone()
    loop.end(rate=1.0)
    torch.testing.assert_close(theta, moved)


def test_half_precision_is_rounded_once() -> None:
    theta = torch.randn(1000).to(torch.bfloat16)
    before, loop = theta.double(), InnerLoop([theta])
    theta += torch.randn(1000).to(torch.bfloat16)
    exact = before + 0.1 * (theta.double() - before)
    loop.end(rate=0.1)
    assert ((theta.double() - exact).abs() <= exact.abs() * 2**-8).all()


def test_two_quadratics_that_disagree_in_one_direction() -> None:
    """Languages that agree in x and disagree in y: the loop moves θ along x, and hardly along y."""
    centers = {"en": torch.tensor([1.0, 1.0]), "sw": torch.tensor([1.0, -1.0])}
    theta = torch.zeros(2)
    for _ in range(10):
        loop = InnerLoop([theta])
        for language in ("en", "sw", "sw", "en"):
            theta -= 0.2 * (theta - centers[language])
        loop.end(rate=0.5)
    decay = 1 - 0.5 * (1 - 0.8**4)
    assert theta[0].item() == pytest.approx(1 - decay**10, rel=1e-5)
    assert abs(theta[1].item()) < 0.1
