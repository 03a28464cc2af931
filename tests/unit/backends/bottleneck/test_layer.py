"""One adapted linear layer: its derivatives, its types and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from transformers.pytorch_utils import Conv1D

from hf_meta_adapters.backends.bottleneck._layer import BottleneckLayer
from hf_meta_adapters.errors import ConfigurationError, UnsupportedModelError


def make(
    base: nn.Module, *names: str, activation: str = "gelu", dropout: float = 0.0
) -> BottleneckLayer:
    layer = BottleneckLayer(base)
    for name in names:
        layer.add_adapter(name, size=2, activation=activation, dropout=dropout, identity=False)
    layer.set_adapter(list(names[:1]))
    return layer


# torch itself scripts functions when it first takes a forward derivative.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "silu", "tanh"])
def test_first_second_and_forward_derivatives_are_right(activation: str) -> None:
    layer = make(nn.Linear(3, 4).double(), "sw", activation=activation)
    names = list(dict(layer.named_parameters()))

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    inputs = [
        torch.randn(2, 3, dtype=torch.float64),
        *(value.detach() for value in layer.parameters()),
    ]
    inputs = [value.clone().requires_grad_() for value in inputs]
    assert torch.autograd.gradcheck(call, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_derivatives_of_a_routed_batch_are_right() -> None:
    layer = make(nn.Linear(3, 4).double(), "te", "da")
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    routed = ["da", "te", "da"]
    assert torch.autograd.gradcheck(
        lambda x: layer(x, adapter_names=routed), x, check_forward_ad=True
    )
    assert torch.autograd.gradgradcheck(lambda x: layer(x, adapter_names=routed), x)


EQUAL = ["da", "da", "te", "te", "sw", "sw"]
"""As many rows of each language, one language after the other: one product serves them all."""


def one_by_one(layer: BottleneckLayer, x: Tensor, names: list[str]) -> Tensor:
    return torch.cat(
        [layer(row.unsqueeze(0), adapter_names=[name]) for row, name in zip(x, names, strict=True)]
    )


@pytest.mark.parametrize("shape", [(6, 3), (6, 2, 3), (6, 2, 4, 3)])
def test_equally_many_rows_of_each_language_give_what_each_row_gives(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make(nn.Linear(3, 4).double(), "te", "da", "sw").requires_grad_(True)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    expected = one_by_one(layer, x, EQUAL)
    slopes = torch.autograd.grad(expected.square().sum(), inputs)

    monkeypatch.setattr(layer, "_adapted", None)  # of a single language
    found = layer(x, adapter_names=EQUAL)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous()
    for one, slope in zip(torch.autograd.grad(found.square().sum(), inputs), slopes, strict=True):
        torch.testing.assert_close(one, slope)
        assert one.is_contiguous()  # as the kernels of fused optimizers expect


def test_derivatives_of_all_languages_at_once_are_right() -> None:
    layer = make(nn.Linear(3, 4).double(), "te", "da")
    names = [name for name, _ in layer.named_parameters() if "bk_" in name]

    def call(x: Tensor, *values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        return functional_call(layer, given, (x,), {"adapter_names": ["da", "te"]})

    x = torch.randn(2, 2, 3, dtype=torch.float64)
    values = [layer.get_parameter(name).detach() for name in names]
    inputs = [value.clone().requires_grad_() for value in (x, *values)]
    assert torch.autograd.gradcheck(call, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, inputs)


def _of_another_size(layer: BottleneckLayer) -> None:
    layer.add_adapter("da", size=3, activation="gelu", dropout=0.0, identity=False)


def _of_another_activation(layer: BottleneckLayer) -> None:
    layer.add_adapter("da", size=2, activation="relu", dropout=0.0, identity=False)


def _absent(layer: BottleneckLayer) -> None:
    for part in (layer.bk_down, layer.bk_up, layer.bk_activation, layer.bk_dropout):
        del part["da"]


def _watched(layer: BottleneckLayer) -> None:
    layer.bk_down["da"].register_forward_hook(lambda module, inputs, output: output + 1)


def _replaced(layer: BottleneckLayer) -> None:
    layer.bk_up["da"] = nn.Sequential(layer.bk_up["da"], nn.Tanh())


@pytest.mark.parametrize(
    "change", [_of_another_size, _of_another_activation, _absent, _watched, _replaced]
)
def test_adapters_that_differ_in_more_than_weights_run_one_by_one(change) -> None:
    layer = make(nn.Linear(3, 4).double(), "te", "da", "sw")
    x = torch.randn(6, 3, dtype=torch.float64)
    before = layer(x, adapter_names=EQUAL)
    change(layer)
    found = layer(x, adapter_names=EQUAL)
    torch.testing.assert_close(found, one_by_one(layer, x, EQUAL))
    assert not torch.allclose(found[:2], before[:2])


def test_gradients_per_row_by_vmap_are_those_of_single_rows() -> None:
    layer = make(nn.Linear(3, 4).double(), "sw")
    parameters = {name: value.detach() for name, value in layer.named_parameters()}
    x = torch.randn(5, 3, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(layer, parameters, (row,)).square().sum()

    together = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for index, row in enumerate(x):
        for name, value in grad(loss)(parameters, row).items():
            torch.testing.assert_close(together[name][index], value)


def test_active_adapters_are_applied_in_order() -> None:
    layer, x = (
        make(nn.Linear(3, 4).double(), "language", "task"),
        torch.randn(2, 3, dtype=torch.float64),
    )

    def adapter(name: str, h: Tensor) -> Tensor:
        return h + layer.bk_up[name](nn.functional.gelu(layer.bk_down[name](h)))

    layer.set_adapter(["language", "task"])
    torch.testing.assert_close(layer(x), adapter("task", adapter("language", layer.base_layer(x))))
    layer.set_adapter(["task", "language"])
    torch.testing.assert_close(layer(x), adapter("language", adapter("task", layer.base_layer(x))))
    layer.set_adapter("absent")
    assert torch.equal(layer(x), layer.base_layer(x))


def test_dropout_acts_on_the_input_of_the_adapter_and_only_in_training() -> None:
    layer, x = make(nn.Linear(3, 4), "sw", dropout=0.9), torch.randn(50, 3)
    trained = layer.train()(x)
    bare = layer.base_layer(x)
    without = bare + layer.bk_up["sw"](nn.functional.gelu(layer.bk_down["sw"].bias))
    # Rows that lost all four of their inputs, 0.9⁴ of 50, get what the biases alone make; the
    # residual loses nothing.
    lost = torch.isclose(trained, without).all(1).sum()
    assert 20 < lost < 45
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    assert not torch.isclose(layer(x), without).all(1).any()


class Quantised(nn.Module):
    """Has its features under the names of GPTQ, integers for a weight, and float16 results."""

    def __init__(self) -> None:
        super().__init__()
        self.infeatures, self.outfeatures = 3, 4
        self.register_buffer("qweight", torch.randint(-8, 8, (3, 4), dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.qweight.to(x.dtype)).half()


def test_a_quantised_layer_is_called_as_it_is() -> None:
    layer, x = make(Quantised(), "sw"), torch.randn(2, 3)
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.float32}
    hidden = layer.base_layer(x)
    change = layer.bk_up["sw"](nn.functional.gelu(layer.bk_down["sw"](hidden.float())))
    assert layer(x).dtype == torch.float16
    torch.testing.assert_close(layer(x), hidden + change.half())


def test_the_width_is_that_of_the_output() -> None:
    assert make(Conv1D(nf=5, nx=3), "sw").bk_up["sw"].out_features == 5
    assert make(nn.Linear(3, 5), "sw").bk_down["sw"].in_features == 5


def test_beams_keep_the_adapter_of_their_row() -> None:
    layer, x = make(nn.Linear(3, 4).double(), "te", "da"), torch.randn(6, 3, dtype=torch.float64)
    one_each = layer(x, adapter_names=["te", "te", "te", "da", "da", "da"])
    assert torch.equal(layer(x, adapter_names=["te", "da"]), one_each)
    assert not torch.equal(layer(x, adapter_names=["te", "da", "te", "da", "te", "da"]), one_each)


@pytest.mark.parametrize("names", [[], ["te", "da", "te", "da"]])
def test_names_that_do_not_fit_the_rows_are_refused(names: list[str]) -> None:
    layer = make(nn.Linear(3, 4), "te", "da")
    with pytest.raises(ConfigurationError, match=f"{len(names)} names for 6 rows"):
        layer(torch.randn(6, 3), adapter_names=names)


def test_merging_is_refused() -> None:
    layer = make(nn.Linear(3, 4), "sw")
    for refused in (layer.merge, layer.unmerge):
        with pytest.raises(ConfigurationError, match="Only a linear adapter can be merged"):
            refused()


def test_only_a_linear_layer_can_be_adapted() -> None:
    with pytest.raises(UnsupportedModelError, match="Found `LayerNorm`"):
        BottleneckLayer(nn.LayerNorm(3))
