"""Copies of whole modules as a PEFT method."""

from __future__ import annotations

import re
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from hf_meta_adapters.anatomy.modules import find_modules, pattern_of_modules
from hf_meta_adapters.backends.module_copy._layer import ModuleCopyLayer


class ModuleCopyModel(BaseTuner):
    """Puts the copies of `ModuleCopyConfig` into a model, in place. Made by `peft.get_peft_model`."""

    prefix = "mc_"
    tuner_layer_cls = ModuleCopyLayer

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        if peft_config.target_modules is None:
            known = [
                one.target_modules
                for one in self.peft_config.values()
                if one.modules == peft_config.modules
            ]
            found = next((one for one in known if one is not None), None)
            peft_config.target_modules = found or pattern_of_modules(
                self.model, find_modules(self.model, peft_config.modules)
            )
        return peft_config

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = target if isinstance(target, ModuleCopyLayer) else ModuleCopyLayer(target)
        layer.add_copy(adapter_name)
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        """Set the module and no more: PEFT would go on to share a weight, which not every module has."""
        setattr(parent, child_name, new_module)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Leave a copy in the type of its module, which its neighbours expect."""

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """Take out the name where it is: anywhere before the last two parts, which is where PEFT looks."""
        return re.sub(rf"(\.mc_copies)\.{re.escape(adapter_name)}(?=\.)", r"\1", key, count=1)
