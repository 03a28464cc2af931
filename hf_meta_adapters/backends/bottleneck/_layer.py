"""A linear layer with bottleneck adapters behind it, one of them active."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NoReturn

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.activations import ACT2FN

from hf_meta_adapters.anatomy.linear_layers import features_of
from hf_meta_adapters.errors import ConfigurationError, UnsupportedModelError

BASE = "__base__"
"""PEFT's name for "no adapter" among the `adapter_names` of a batch."""


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """Computes `h + up(act(down(h)))`, where `h` is the output of the layer it wraps.

    Args:
        base_layer: The linear layer; it is called as it is, so that it may be quantised.
    """

    # Inherited from PEFT, whose types are not read; `nn.Module` would have type checkers take them
    # for tensors.
    active_adapters: list[str]
    set_adapter: Callable[..., None]
    _cast_input_dtype: Callable[..., Tensor]
    _move_adapter_to_device_of_base_layer: Callable[..., None]

    adapter_layer_names = ("bk_down", "bk_up")
    other_param_names = ("bk_activation", "bk_dropout")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        features = features_of(base_layer)
        if features is None:
            raise UnsupportedModelError(
                "A bottleneck adapter must stand behind a linear layer, whose width it has. Found"
                f" `{type(base_layer).__name__}`. Write in `target_modules` the names of linear"
                " layers."
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
        down, up = nn.Linear(self.out_features, size), nn.Linear(size, self.out_features)
        if identity:
            nn.init.zeros_(up.weight)
            nn.init.zeros_(up.bias)
        self.bk_down[name], self.bk_up[name] = down, up
        self.bk_activation[name], self.bk_dropout[name] = ACT2FN[activation], nn.Dropout(dropout)
        self._move_adapter_to_device_of_base_layer(name)

    def forward(
        self, x: Tensor, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any
    ) -> Tensor:
        """Call the wrapped layer, then the active adapters one after the other.

        Args:
            x: The input, of shape (B, ..., in).
            args: Further arguments of the wrapped layer.
            adapter_names: One adapter for each row, `"__base__"` for none, in place of the active
                ones. Where the batch is a multiple of that (beams of a search), each name holds for
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
            hidden = self._changed(name, hidden)
        return hidden

    def merge(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: the adapter is not linear."""
        raise ConfigurationError(
            "Only a linear adapter can be merged. Found a bottleneck adapter, which has an"
            " activation inside. Keep it beside the model, or write `model.unload()` for the model"
            " without it."
        )

    unmerge = merge

    def _change(self, name: str, hidden: Tensor) -> Tensor:
        down: Any = self.bk_down[name]
        up: Any = self.bk_up[name]
        inputs = self.bk_dropout[name](self._cast_input_dtype(hidden, down.weight.dtype))
        return up(self.bk_activation[name](down(inputs))).to(hidden.dtype)

    def _routed(self, hidden: Tensor, adapter_names: Sequence[str]) -> Tensor:
        beams, rest = divmod(len(hidden), len(adapter_names) or 1)
        if rest or not adapter_names:
            raise ConfigurationError(
                "`adapter_names` must name one adapter for each row of the batch. Found "
                f"{len(adapter_names)} names for {len(hidden)} rows. Give one name a row."
            )
        runs = [(name, beams * len(list(rows))) for name, rows in groupby(adapter_names)]
        if len({name for name, _ in runs}) == len(
            runs
        ):  # together: no numbers of rows go to the device
            parts = hidden.split([size for _, size in runs])
            return torch.cat(
                [self._changed(name, part) for (name, _), part in zip(runs, parts, strict=True)]
            )
        names = [name for name in adapter_names for _ in range(beams)]
        routed = hidden
        for name in dict.fromkeys(names):
            if name in self.bk_down:
                rows = torch.tensor(
                    [row for row, other in enumerate(names) if other == name], device=hidden.device
                )
                routed = routed.index_add(0, rows, self._change(name, hidden[rows]))
        return routed

    def _changed(self, name: str, hidden: Tensor) -> Tensor:
        return hidden + self._change(name, hidden) if name in self.bk_down else hidden
