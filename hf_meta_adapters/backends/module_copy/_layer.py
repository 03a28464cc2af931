"""A module with copies of it, one of them active."""

from __future__ import annotations

import copy
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from hf_meta_adapters.backends.abilities import CopiesModule
from hf_meta_adapters.errors import ConfigurationError


class ModuleCopyLayer(nn.Module, BaseTunerLayer, CopiesModule):
    """Calls the active copy in place of the module it wraps; the module itself if none is active.

    Args:
        base_layer: The module, which does not change.
    """

    active_adapters: list[str]  # inherited from PEFT, whose types are not read

    adapter_layer_names = ("mc_copies",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.mc_copies = nn.ModuleDict()
        self.merged_adapters: list[str] = []

    @property
    def original(self) -> nn.Module:
        """The module that the copies are of."""
        return self.base_layer

    def add_copy(self, name: str) -> None:
        """Create a copy of the module.

        Args:
            name: The name of the adapter that it belongs to.
        """
        # The config belongs to the whole model, which may change it later on: the copy shares it.
        # `deepcopy` takes what its memo maps an identity to as the copy of that object.
        configs = [vars(part).get("config") for part in self.base_layer.modules()]
        shared = {id(config): config for config in configs}
        self.mc_copies[name] = copy.deepcopy(self.base_layer, shared)

    def forward(self, *args: object, **kwargs: object) -> Any:
        """Call the active copy with the arguments of the module."""
        return self._active()(*args, **kwargs)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Put the active copy, or the named one, in the place of the module."""
        if adapter_names is None:
            adapter_names = self.active_adapters
        names = [
            name
            for name in adapter_names
            if name in self.mc_copies and name not in self.merged_adapters
        ]

        if len(names) > 1 or (names and self.merged_adapters):
            raise ConfigurationError(
                "Only one copy of a module can be merged at a time. Found"
                f" {[*self.merged_adapters, *names]}. Call `unmerge_adapter()` first, or name a"
                " single adapter."
            )

        for name in names:
            self._swap(name)
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Put the module back."""
        while self.merged_adapters:
            self._swap(self.merged_adapters.pop())

    @property
    def weight(self) -> Tensor | nn.Module:
        """The weight of the active copy: some models read it without a call."""
        return self._active().weight

    @property
    def bias(self) -> Tensor | nn.Module:
        """The bias of the active copy."""
        return self._active().bias

    def __getattr__(self, name: str) -> Any:
        """Look further in the active copy: some models read attributes of their modules."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            # absent while a copy of this layer is being made, and needed to find the active copy
            if name in ("base_layer", "mc_copies") or name.startswith("__"):
                raise

        return getattr(self._active(), name)

    def _active(self) -> nn.Module:
        """The module that a call goes to."""
        if self.disable_adapters:
            self.unmerge()  # as other layers of PEFT do
            return self.base_layer

        # while a copy is merged it is the base layer
        names = [name for name in self.active_adapters if name in self.mc_copies]
        if self.merged_adapters or not names:
            return self.base_layer

        if len(names) > 1:
            raise ConfigurationError(
                f"Only one copy of a module can be active at a time. Found {names}. Activate a"
                " single adapter."
            )

        return self.mc_copies[names[0]]

    def _swap(self, name: str) -> None:
        self.base_layer, self.mc_copies[name] = self.mc_copies[name], self.base_layer
