"""What PEFT needs of a model before it merges adapters into the weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import nn


def prepare_merging(model: nn.Module) -> None:
    """Make every layer of PEFT able to merge without an effect on other modules.

    Args:
        model: A copy of the model that is going to be merged; changed in place.
    """
    # a tied weight would carry the change into modules in which no adapter is active
    uses = Counter(
        id(parameter) for part in model.modules() for parameter in part._parameters.values()
    )
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            _untie(layer.get_base_layer(), uses)

        # PEFT looks the name up in a dictionary, for which a list is no key
        if isinstance(layer, ModulesToSaveWrapper) and layer.active_adapters:
            layer._active_adapter = layer.active_adapters[0]


def unwrap(model: nn.Module, only: Collection[int] | None = None) -> None:
    """Put modules in the place of layers of PEFT that have been merged.

    Some methods leave layers of `modules_to_save` in the model.

    Args:
        model: The model; changed in place.
        only: The identities of the layers; `None` for all.
    """
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if only is not None and id(layer) not in only:
                continue

            if isinstance(layer, ModulesToSaveWrapper):
                setattr(parent, name, layer.modules_to_save[layer.active_adapter])
            elif isinstance(layer, TrainableTokensWrapper):
                setattr(parent, name, layer.original_module)
            elif isinstance(layer, BaseTunerLayer):
                setattr(parent, name, layer.get_base_layer())


def _untie(module: nn.Module, uses: Counter[int]) -> None:
    """Give a module its own copy of every parameter that another module has as well."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and uses[id(parameter)] > 1:
                own = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                part._parameters[name] = own
