"""Rows of a linear layer with leaves of their own: one forward pass, two gradients."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from torch import nn

from hf_meta_adapters import BottleneckConfig
from hf_meta_adapters.backends.peft._divided_linear import (
    _divided,
    _DividedLinear,
    divided_linears,
    has_linears_alone,
)
from tests.training import make_model

ROWS, FIRST = 5, 2


def tensors(*, bias: bool) -> list[torch.Tensor | None]:
    torch.manual_seed(0)
    inputs = torch.randn(ROWS, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    added = torch.randn(6, dtype=torch.float64, requires_grad=True) if bias else None
    return [inputs, weight, added]


@pytest.mark.parametrize("bias", [True, False])
def test_derivatives_of_first_and_second_order(bias: bool) -> None:
    torch.manual_seed(0)
    inputs, weight, added = (
        torch.randn(shape, dtype=torch.float64) for shape in ((ROWS, 3, 4), (6, 4), (6,))
    )
    leaves = [inputs, weight, weight.clone(), *([added, added.clone()] if bias else [])]
    leaves = [leaf.requires_grad_() for leaf in leaves]

    def divided(inputs, weight, own_weight, bias=None, own_bias=None):
        return _DividedLinear.apply(FIRST, inputs, weight, bias, own_weight, own_bias)

    def of_parts(inputs, weight, own_weight, bias=None, own_bias=None):
        ahead = nn.functional.linear(inputs[:FIRST], own_weight, own_bias)
        return torch.cat([ahead, nn.functional.linear(inputs[FIRST:], weight, bias)])

    torch.testing.assert_close(divided(*leaves), of_parts(*leaves))
    first = [
        torch.autograd.grad(one(*leaves).sin().sum(), leaves, create_graph=True)
        for one in (divided, of_parts)
    ]
    torch.testing.assert_close(*first)

    # Of the sum of both leaves, as which leaf a value belongs to is not told when it is used again.
    second = [
        torch.autograd.grad(sum(part.cos().sum() for part in parts), leaves) for parts in first
    ]
    torch.testing.assert_close(second[0][0], second[1][0])
    for place in range(1, len(leaves), 2):
        found, expected = (parts[place] + parts[place + 1] for parts in second)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("bias", [True, False])
def test_under_autocast(bias: bool) -> None:
    linear = nn.Linear(4, 6, bias=bias)
    inputs = torch.randn(ROWS, 3, 4, requires_grad=True)
    own = [parameter for parameter in (linear.weight, linear.bias) if parameter is not None]

    with torch.autocast("cpu", torch.bfloat16):
        expected = linear(inputs)
        plain = torch.autograd.grad(expected.float().sin().sum(), [inputs, *own])
        leaves: dict[int, torch.Tensor] = {}
        with _divided(linear, leaves, FIRST, ROWS):
            found = linear(inputs)
        of_parts = [*own, *(leaves[id(parameter)] for parameter in own)]
        divided = torch.autograd.grad(found.float().sin().sum(), [inputs, *of_parts])

    assert torch.equal(found, expected)
    assert torch.equal(divided[0], plain[0])
    count = len(own)
    for number, whole in enumerate(plain[1:]):
        both = divided[1 + number] + divided[1 + count + number]
        torch.testing.assert_close(both, whole, rtol=2e-2, atol=2e-2)
        assert both.dtype == whole.dtype == torch.float32


def layers_of(config: object, **options: object) -> tuple[list[nn.Module], str]:
    model = make_model(config=config, **options)
    backend = model.backend
    return list(backend._switches.layers), backend.adapter("te")


def test_the_layers_are_as_before_even_after_an_error() -> None:
    layers, name = layers_of("bottleneck")
    linears = [layer.bk_down[name] for layer in layers]

    def use() -> None:
        with divided_linears(layers, name, 1, 2):
            assert all("forward" in vars(linear) for linear in linears)
            linears[0](torch.zeros(3, linears[0].in_features))

    with pytest.raises(ValueError, match="an entry for each of 2 rows"):
        use()
    assert not any("forward" in vars(linear) for linear in linears)


@pytest.mark.parametrize(
    ("config", "is_plain"),
    [
        (BottleneckConfig(bottleneck_size=3), True),
        (LoraConfig(r=2, target_modules=["query"], lora_bias=True), True),
        (LoraConfig(r=2, target_modules=["query"], use_dora=True), False),
        (LoraConfig(r=2, target_modules=["word_embeddings"]), False),
    ],
)
def test_only_adapters_of_linear_layers_are_divided(config: object, is_plain: bool) -> None:
    layers, name = layers_of(config)
    assert has_linears_alone(layers, name) == is_plain


def test_a_layer_that_was_replaced_is_not_divided() -> None:
    class Scaled(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(inputs)

    layers, name = layers_of("bottleneck")
    down = layers[0].bk_down[name]
    layers[0].bk_down[name] = Scaled(down.in_features, down.out_features)
    assert not has_linears_alone(layers, name)
