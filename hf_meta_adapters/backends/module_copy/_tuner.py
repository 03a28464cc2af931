"""Copies of whole modules as a PEFT method."""

from __future__ import annotations

import re

from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from hf_meta_adapters.anatomy.modules import find_modules, pattern_of_modules
from hf_meta_adapters.backends.module_copy._config import ModuleCopyConfig
from hf_meta_adapters.backends.module_copy._layer import ModuleCopyLayer


class ModuleCopyModel(BaseTuner):
    """Puts the copies of `ModuleCopyConfig` into a model, in place, for `peft.get_peft_model`."""

    prefix = "mc_"
    tuner_layer_cls = ModuleCopyLayer

    def _prepare_adapter_config(
        self, peft_config: ModuleCopyConfig, model_config: dict[str, object]
    ) -> ModuleCopyConfig:
        if peft_config.target_modules is None:
            peft_config.target_modules = self._known_targets(peft_config)

        if peft_config.target_modules is None:
            places = find_modules(self.model, peft_config.modules)
            peft_config.target_modules = pattern_of_modules(self.model, places)

        return peft_config

    def _known_targets(self, peft_config: ModuleCopyConfig) -> str | list[str] | None:
        """What an earlier adapter found for the same choice, so that all languages agree."""
        for other in self.peft_config.values():
            if other.modules == peft_config.modules and other.target_modules:
                return other.target_modules

        return None

    def _create_and_replace(
        self,
        peft_config: ModuleCopyConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = target
        if not isinstance(layer, ModuleCopyLayer):
            layer = ModuleCopyLayer(target)

        layer.add_copy(adapter_name)

        # a layer that an earlier adapter put there is kept
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

        # new parameters require gradients, but only those of active copies should
        layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        # no more than that: PEFT's own method goes on to share a weight, which a module may lack
        setattr(parent, child_name, new_module)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Leave a copy in the type of its module, which its neighbors expect."""

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # PEFT looks for the name in the last two parts of the key only; a copied module may be deep
        return re.sub(rf"(\.mc_copies)\.{re.escape(adapter_name)}(?=\.)", r"\1", key, count=1)
