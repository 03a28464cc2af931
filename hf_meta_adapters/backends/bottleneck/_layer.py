"""A linear layer with bottleneck adapters behind it, one of them active."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from typing import Any, NoReturn

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.activations import ACT2FN

from hf_meta_adapters.anatomy.linear_layers import features_of
from hf_meta_adapters.backends.bottleneck._together import alike, changes
from hf_meta_adapters.errors import ConfigurationError, UnsupportedModelError

BASE = "__base__"
"""PEFT's name for "no adapter" among the `adapter_names` of a batch."""


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """Computes `h + up(act(down(h)))`, where `h` is the output of the layer it wraps.

    Args:
        base_layer: The linear layer. It is only called, so that it may be quantised.
    """

    # Inherited from PEFT, whose types are not read; `nn.Module` would have type checkers take them
    # for tensors.
    active_adapters: list[str]
    set_adapter: Callable[..., None]
    _cast_input_dtype: Callable[..., Tensor]
    _move_adapter_to_device_of_base_layer: Callable[..., None]

    adapter_layer_names = ("bk_down", "bk_up")
    other_param_names = ("bk_activation", "bk_dropout")
    calls_linears = True

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        features = features_of(base_layer)
        if features is None:
            raise UnsupportedModelError(
                "A bottleneck adapter must stand behind a linear layer, whose width it takes. Found"
                f" `{type(base_layer).__name__}`. Name linear layers in `target_modules`."
            )

        self.base_layer = base_layer
        self.in_features, self.out_features = features
        self.bk_down, self.bk_up = nn.ModuleDict(), nn.ModuleDict()
        self.bk_activation, self.bk_dropout = nn.ModuleDict(), nn.ModuleDict()
        self.merged_adapters: list[str] = []

    def add_adapter(
        self, name: str, *, size: int, activation: str, dropout: float, identity: bool
    ) -> None:
        """Create an adapter, on the device and in the type of the wrapped layer.

        Args:
            name: The name of the adapter.
            size: The width of the bottleneck.
            activation: A name in `transformers.activations.ACT2FN`.
            dropout: The probability of dropout on the adapter's input.
            identity: Whether the up-projection starts at zero, which makes the new adapter the
                identity.
        """
        # `up` is drawn even if it is then set to zero: the random numbers after it stay the same
        down, up = nn.Linear(self.out_features, size), nn.Linear(size, self.out_features)
        if identity:
            nn.init.zeros_(up.weight)
            nn.init.zeros_(up.bias)

        self.bk_down[name], self.bk_up[name] = down, up
        self.bk_activation[name], self.bk_dropout[name] = ACT2FN[activation], nn.Dropout(dropout)
        self._move_adapter_to_device_of_base_layer(name)

    def forward(
        self, x: Tensor, *args: object, adapter_names: Sequence[str] | None = None, **kwargs: object
    ) -> Tensor:
        """Call the wrapped layer, then the active adapters one after the other.

        Args:
            x: The input, of shape (B, ..., in).
            args: Further arguments of the wrapped layer.
            adapter_names: One adapter for each row, `"__base__"` for none, instead of the active
                ones. If the batch is a multiple of that (beams of a search), each name holds for
                as many rows in succession.
            kwargs: Further arguments of the wrapped layer.

        Returns:
            The output, of shape (B, ..., out).
        """
        hidden = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return hidden

        if adapter_names is not None:
            return self._routed(hidden, adapter_names)

        for name in self.active_adapters:
            hidden = self._adapted(name, hidden)

        return hidden

    def merge(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse: the adapter is not linear."""
        raise ConfigurationError(
            "Only a linear adapter can be merged. Found a bottleneck adapter, which has an"
            " activation inside. Keep it next to the model, or call `model.unload()` for the model"
            " without it."
        )

    unmerge = merge

    def _adapted(self, name: str, hidden: Tensor) -> Tensor:
        """Compute h + up(act(down(h))), or h if this layer has no adapter of that name."""
        # a name is active in all layers, also in those that only other adapters are in
        if name not in self.bk_down:
            return hidden

        return hidden + self._change(name, hidden)

    def _change(self, name: str, hidden: Tensor) -> Tensor:
        """Compute up(act(down(h))) in the adapter's type, and return it in the type of h."""
        down: Any = self.bk_down[name]
        up: Any = self.bk_up[name]

        # PEFT keeps adapters of a model in half precision in float32
        inputs = self.bk_dropout[name](self._cast_input_dtype(hidden, down.weight.dtype))
        return up(self.bk_activation[name](down(inputs))).to(hidden.dtype)

    def _routed(self, hidden: Tensor, adapter_names: Sequence[str]) -> Tensor:
        """The output with an adapter for each row."""
        # a search over beams repeats each row of the batch before it calls the model
        beams, rest = divmod(len(hidden), len(adapter_names) or 1)
        if rest or not adapter_names:
            raise ConfigurationError(
                "`adapter_names` must name one adapter for each row of the batch. Found"
                f" {len(adapter_names)} names for {len(hidden)} rows. Pass one name per row."
            )

        # runs of rows with the same adapter, such as those of one language after the other
        runs = [(name, beams * len(list(rows))) for name, rows in groupby(adapter_names)]
        names = {name for name, _ in runs}
        if len(names) == len(runs):
            sizes = {size for _, size in runs}
            if len(runs) > 1 and len(sizes) == 1 and self._are_alike(names):
                return hidden + self._changes([name for name, _ in runs], hidden)

            # Slices are views with sizes that the host knows, so no indices go to the device.
            slices = hidden.split([size for _, size in runs])
            adapted = [
                self._adapted(name, part) for (name, _), part in zip(runs, slices, strict=True)
            ]
            return torch.cat(adapted)

        return self._routed_by_index(hidden, [name for name in adapter_names for _ in range(beams)])

    def _are_alike(self, names: Collection[str]) -> bool:
        """Whether this layer has all of these adapters, and they differ in their weights alone."""
        if not all(name in self.bk_down for name in names):
            return False

        parts = (self.bk_down, self.bk_up, self.bk_activation, self.bk_dropout)
        return alike(*([part[name] for name in names] for part in parts))

    def _changes(self, names: Sequence[str], hidden: Tensor) -> Tensor:
        """Compute up(act(down(h))) with an adapter for each part of the rows, of equal sizes.

        One product of matrices for all adapters keeps an accelerator busier than one for each.
        """
        down: Any = [self.bk_down[name] for name in names]
        up: Any = [self.bk_up[name] for name in names]

        inputs = self.bk_dropout[names[0]](self._cast_input_dtype(hidden, down[0].weight.dtype))
        return changes(inputs, down, up, self.bk_activation[names[0]]).to(hidden.dtype)

    def _routed_by_index(self, hidden: Tensor, names: Sequence[str]) -> Tensor:
        """The output where the rows of some adapter are not next to each other."""
        routed = hidden
        for name in dict.fromkeys(names):
            if name not in self.bk_down:
                continue

            numbers = [row for row, other in enumerate(names) if other == name]
            rows = torch.tensor(numbers, device=hidden.device)

            # out of place: `hidden` is needed in the backward pass
            routed = routed.index_add(0, rows, self._change(name, hidden[rows]))

        return routed
