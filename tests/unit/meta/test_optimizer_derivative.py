"""The derivative of a step that an optimizer has taken, against differences of such steps."""

from __future__ import annotations

import copy

import pytest
import torch

from hf_meta_adapters.meta import _pieces
from hf_meta_adapters.meta._optimizer_derivative import OptimizerDerivative

SHAPES = [(5, 7), (3,), (), (2, 4, 3)]
OPTIMIZERS = {
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.1, weight_decay=0.01),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.01),
    "adamw, fused": lambda groups: torch.optim.AdamW(groups, lr=0.1, fused=True),
    "adam, for each": lambda groups: torch.optim.Adam(groups, lr=0.1, foreach=True),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, weight_decay=0.01),
    "sgd, dampening": lambda groups: torch.optim.SGD(groups, 0.1, momentum=0.7, dampening=0.2),
    "sgd, fused": lambda groups: torch.optim.SGD(groups, 0.1, momentum=0.7, fused=True),
}


class Case:
    """An optimizer after some steps, with gradients for the next."""

    def __init__(self, name: str, warm_up: int = 2) -> None:
        torch.manual_seed(0)
        self.parameters = [
            torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in SHAPES
        ]
        groups = [{"params": self.parameters[:2]}, {"params": self.parameters[2:], "lr": 0.3}]
        if name.startswith("adam"):
            groups[1]["eps"] = 1e-3

        self.optimizer = OPTIMIZERS[name](groups)
        for number in range(warm_up + 1):
            for parameter in self.parameters:
                parameter.grad = torch.randn_like(parameter)
            if number < warm_up:
                self.optimizer.step()

        self.parameters[0].grad[1:3] = 0.0
        if "fused" not in name:  # fused kernels read memory as it lies
            # transposed, as autograd returns the gradients of some products
            self.parameters[0].grad = self.parameters[0].grad.t().contiguous().t()

    def derivative(self, factor: torch.Tensor | float = 1.0) -> list[torch.Tensor]:
        """What is found after the step."""
        point = [parameter.detach().clone() for parameter in self.parameters]
        slope = OptimizerDerivative(self.optimizer, self.parameters, point)
        self.optimizer.step()
        return slope([parameter.grad for parameter in self.parameters], factor)

    def by_differences(self, h: float = 1e-6) -> list[torch.Tensor]:
        """−∂θ/∂g of the optimizer's own step, entry by entry, from steps of copies."""
        ends = []
        for shift in (-h, h):
            parameters, optimizer = copy.deepcopy((self.parameters, self.optimizer))
            for one, other in zip(parameters, self.parameters, strict=True):
                one.grad = other.grad + shift
            optimizer.step()
            ends.append([parameter.detach() for parameter in parameters])

        slopes = [(low - high) / (2 * h) for low, high in zip(*ends, strict=True)]
        found = zip(slopes, self.parameters, strict=True)
        return [slope.masked_fill(one.grad == 0, 0.0) for slope, one in found]


@pytest.mark.parametrize("warm_up", [0, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_is_that_of_the_optimizers_own_step(name, warm_up):
    case = Case(name, warm_up)
    expected = case.by_differences()
    for one, slope in zip(case.derivative(torch.tensor(0.5)), expected, strict=True):
        # the first step of Adam is that of sign(g): its slope is near zero
        torch.testing.assert_close(one, 0.5 * slope, rtol=1e-5, atol=1e-8)
        assert one.any()


@pytest.mark.parametrize("entries", [1, 4])
def test_pieces_of_any_size(entries, monkeypatch):
    whole = Case("adamw").derivative()
    monkeypatch.setattr(_pieces, "_ENTRIES_ON_CPU", entries)
    for one, other in zip(Case("adamw").derivative(), whole, strict=True):
        torch.testing.assert_close(one, other)


def test_a_parameter_without_a_gradient_has_none():
    case = Case("adamw")
    case.parameters[1].grad = None
    found = case.derivative()
    assert [one is None for one in found] == [False, True, False, False]


def test_gradients_and_state_are_left_as_they_are():
    case = Case("adam")
    point = [parameter.detach().clone() for parameter in case.parameters]
    slope = OptimizerDerivative(case.optimizer, case.parameters, point)
    case.optimizer.step()
    gradients = [parameter.grad for parameter in case.parameters]
    before = copy.deepcopy((gradients, case.optimizer.state_dict()))

    slope(gradients)
    after = gradients, case.optimizer.state_dict()
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("moment", [0.0, 1e-44, 1e-38, 1e-30])
def test_tiny_moments_give_finite_numbers(moment):
    parameter = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.AdamW([parameter], fused=True)
    parameter.grad = torch.tensor([0.0, moment**0.5, 1.0])
    optimizer.step()
    optimizer.state[parameter]["exp_avg_sq"][:2] = moment

    (found,) = OptimizerDerivative(optimizer, [parameter], [torch.ones(3)])([parameter.grad])
    assert found.isfinite().all()
    assert found[0] == 0


@pytest.mark.parametrize("name", ["adamw, fused", "sgd, fused"])
class TestLossScaling:
    """A fused optimizer divides the scale of fp16 out itself, and skips a step itself."""

    def scaled(self, name: str, overflow: bool) -> tuple[Case, list[torch.Tensor]]:
        case = Case(name)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        scaler.scale(torch.ones(()))
        for parameter in case.parameters:
            parameter.grad *= 8.0
        if overflow:
            case.parameters[0].grad[0, 0] = torch.inf

        point = [parameter.detach().clone() for parameter in case.parameters]
        slope = OptimizerDerivative(case.optimizer, case.parameters, point)
        found = []
        case.optimizer.register_step_post_hook(
            lambda *_: found.extend(slope([parameter.grad for parameter in case.parameters]))
        )
        scaler.step(case.optimizer)
        assert found
        return case, found

    def test_the_scale_makes_no_difference(self, name):
        _, found = self.scaled(name, overflow=False)
        for one, other in zip(found, Case(name).derivative(), strict=True):
            torch.testing.assert_close(one, other)

    def test_a_skipped_step_has_the_slope_zero(self, name):
        _, found = self.scaled(name, overflow=True)
        assert not any(one.any() for one in found)
