"""The words of PyTorch's errors for an operation without a second derivative, raised for real."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta import meta_gradient
from hf_meta_adapters.meta._second_order import (
    LACKS_SECOND_DERIVATIVE,
    lacks_second_derivative,
    second_order,
)


def twice(function, x):
    """Differentiate twice, by reverse mode over reverse mode."""
    (slope,) = torch.autograd.grad(function(x).sum(), [x], create_graph=True)
    return torch.autograd.grad(slope.square().sum(), [x])


def forward_over_reverse(function, x):
    """Differentiate twice, by forward mode over reverse mode."""
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        torch.autograd.grad(function(dual).sum(), [dual])


class Once(torch.autograd.Function):
    """x², whose backward may itself not be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return 2 * slope * ctx.saved_tensors[0]


class WithoutForward(torch.autograd.Function):
    """x², without a forward derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, slope):
        return 2 * slope * ctx.saved_tensors[0]


@torch.library.custom_op("hf_meta_adapters_tests::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    """2x, without a formula for its derivative."""
    return 2 * x


def fused_attention():
    x = torch.randn(1, 1, 2, 8, requires_grad=True)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        twice(lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x), x)


def compiled():
    function = torch.compile(lambda x: x.sin() * x, backend="aot_eager")
    twice(function, torch.randn(3, requires_grad=True))


def once_differentiable():
    x = torch.ones(2, requires_grad=True)
    (slope,) = torch.autograd.grad(Once.apply(x).square().sum(), [x], create_graph=True)
    slope.sum().backward()


def without_formula():
    twice(lambda x: double(x.square()), torch.ones(2, requires_grad=True))


def silu_forward():
    forward_over_reverse(torch.nn.functional.silu, torch.randn(3, requires_grad=True))


def custom_forward():
    forward_over_reverse(WithoutForward.apply, torch.randn(3, requires_grad=True))


RAISED_BY = {
    "derivative for": fused_attention,
    "double backward": compiled,
    "once_differentiable": once_differentiable,
    "no autograd formula": without_formula,
    "forward AD": silu_forward,
    "forward mode AD": custom_forward,
}


def test_each_of_the_words_is_raised_here():
    assert set(RAISED_BY) == set(LACKS_SECOND_DERIVATIVE)


@pytest.mark.parametrize("words", RAISED_BY)
def test_pytorch_still_says_it_in_these_words(words):
    with pytest.raises((RuntimeError, NotImplementedError)) as caught:
        RAISED_BY[words]()
    assert words in str(caught.value)
    assert lacks_second_derivative(caught.value)


@pytest.mark.parametrize("words", RAISED_BY)
def test_such_an_error_says_what_to_use_instead(words):
    raised = RuntimeError(f"{words} something\nand a trace")
    with (
        pytest.raises(
            ConfigurationError,
            match=f'Found one without: {words} something Use `meta_gradient="finite_difference"`',
        ),
        second_order(),
    ):
        raise raised


def test_another_error_stays_what_it_is():
    with pytest.raises(RuntimeError, match="out of paper"), second_order():
        raise RuntimeError("out of paper")


def test_a_function_without_a_forward_derivative_is_refused_in_forward_mode():
    theta, phi = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)

    def loss():
        return WithoutForward.apply(theta * phi).sum()

    with pytest.raises(ConfigurationError, match='Use `meta_gradient="finite_difference"`'):
        meta_gradient(
            {"en": loss},
            {"en": loss},
            {"w": theta},
            {"en": {"a": phi}},
            inner_learning_rate=0.1,
            meta_gradient="forward_mode",
        )
