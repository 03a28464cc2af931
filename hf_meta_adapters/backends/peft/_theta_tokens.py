"""Rows of embeddings that θ trains, beside adapters of languages that have none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn


class ThetaTokens(TrainableTokensWrapper):
    """PEFT's layer of `trainable_token_indices`, which says that languages have no rows in it.

    PEFT itself looks for rows in it for every adapter of the model.
    """

    def adapter_state_dict(self, adapter_name: str, state_dict: dict[str, Tensor]) -> Any:
        """The tensors of an adapter, under the names of a file."""
        if adapter_name not in self._get_available_adapters():
            return {}
        return super().adapter_state_dict(adapter_name, state_dict)

    def adapter_state_dict_load_map(self, adapter_name: str) -> Any:
        """The name in a file → the name in the layer."""
        if adapter_name not in self._get_available_adapters():
            return {}
        return super().adapter_state_dict_load_map(adapter_name)


def take_over_tokens(layers: Iterable[nn.Module]) -> None:
    """Make PEFT's layers of trainable tokens those of θ, in place."""
    for layer in layers:
        if type(layer) is TrainableTokensWrapper:
            layer.__class__ = ThetaTokens


def rows_of_tokens(layers: Iterable[Any], adapter: str) -> dict[int, frozenset[int]]:
    """The rows that an adapter has values of its own for.

    Args:
        layers: The layers of PEFT.
        adapter: The name of the adapter.

    Returns:
        The address of the data of an embedding → its rows.
    """
    rows: dict[int, frozenset[int]] = {}
    for layer in layers:
        if isinstance(layer, TrainableTokensWrapper):
            address = layer.original_module.weight.data_ptr()
            rows[address] = frozenset(layer.token_adapter.token_indices[adapter])
    return rows
