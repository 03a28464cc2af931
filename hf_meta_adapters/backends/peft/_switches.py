"""Layers of PEFT, told directly which adapters are active."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from peft.tuners.ln_tuning.layer import LNTuningLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn

from hf_meta_adapters.backends.abilities import CopiesModule
from hf_meta_adapters.backends.peft._shared_part import ADAPTER, is_alone
from hf_meta_adapters.errors import ConfigurationError

# layers that call one adapter at a time, so that θ and φ cannot both be active in them
_CALLS_ONE = (LNTuningLayer, CopiesModule, AuxiliaryTrainingWrapper)


@dataclass(frozen=True)
class Switches:
    """The layers that a change of language concerns.

    Args:
        layers: The layers, of classes of PEFT whose types are not read.
        with_shared: For each whether θ stays active in it.
    """

    layers: list[Any] = field(default_factory=list)
    with_shared: list[bool] = field(default_factory=list)

    @classmethod
    def of(cls, layers: Sequence[nn.Module], shared: Sequence[Any], *, method: str) -> Switches:
        """Find them, and activate θ for good in layers that no language has an adapter in.

        Args:
            layers: All layers in which PEFT keeps adapters.
            shared: Those in which it keeps θ.
            method: The name of the configuration of the languages, for an error.

        Raises:
            ConfigurationError: If θ and φ would have to take turns in a layer.
        """
        shared_ids = {id(layer) for layer in shared}
        switched = [layer for layer in layers if id(layer) not in shared_ids]
        with_shared = [False] * len(switched)

        for layer in shared:
            if is_alone(layer):
                # PEFT switches all layers of a kind when it adds an adapter, this one as well
                layer._active_adapter = [ADAPTER]
                continue

            if isinstance(layer, _CALLS_ONE):
                raise ConfigurationError(
                    "θ and φ must not both be copies of one module, because only one copy can be"
                    f" active. Found a `{type(layer).__name__}` with copies for `shared` and for"
                    f" `{method}`. Change `target_modules` or `modules_to_save` in one of them."
                )

            switched.append(layer)
            with_shared.append(True)

        return cls(switched, with_shared)

    def activate(self, adapter: str) -> None:
        """Run the following forward passes through an adapter, and through θ where it lies."""
        for layer, has_shared in zip(self.layers, self.with_shared, strict=True):
            # θ first: bottleneck adapters are applied in this order
            if has_shared:
                layer._active_adapter = [ADAPTER, adapter]
            else:
                layer._active_adapter = [adapter]


def check_not_nested(layers: Sequence[nn.Module]) -> None:
    """Refuse adapters inside of whole copies of modules, where θ and φ meet.

    Args:
        layers: All layers in which PEFT keeps adapters.

    Raises:
        ConfigurationError: If a copy that one of them has contains layers of the other.
    """
    for layer in layers:
        if not isinstance(layer, ModulesToSaveWrapper):
            continue

        inner = [name for name, part in layer.named_modules() if isinstance(part, BaseTunerLayer)]
        if inner:
            kept = sorted(layer._get_available_adapters())
            raise ConfigurationError(
                "θ and φ must not lie within one another: a module that one has a copy of, by"
                " `modules_to_save`, must hold no layer of the other. Found, in the copy of"
                f" {kept}, layers of adapters: {inner[:3]}. Leave the module out of"
                ' `modules_to_save`, or the layers out of the other by `exclude_modules=["..."]`.'
            )


def originals(switches: Switches) -> list[nn.Module]:
    """The modules of the base in whose place the layers call an adapter, which is a copy."""
    # three classes with three names for it: PEFT has no common interface
    modules: list[nn.Module] = []
    for layer in switches.layers:
        if isinstance(layer, LNTuningLayer):
            modules.append(layer.base_layer)
        elif isinstance(layer, CopiesModule):
            modules.append(layer.original)
        elif isinstance(layer, ModulesToSaveWrapper):
            modules.append(layer.original_module)

    return modules
