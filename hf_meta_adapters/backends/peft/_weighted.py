"""Several LoRA as one, by `add_weighted_adapter` of PEFT."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from hf_meta_adapters.backends.abilities import MergedUpdate, MergesUpdates
from hf_meta_adapters.backends.peft._files import read_config, write_adapter
from hf_meta_adapters.backends.weights_file import read_tensors
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta.task_vectors import weighted_mean

# PEFT finds tensors by parts of their names, so that these must be no part of a model's own
_MERGED, _FIRST = "merged_lora", "expert_lora_0"
_MATRIX = "lora_"
_UNLIKE_AN_UPDATE = ("use_dora", "lora_bias", "target_parameters", "alora_invocation_tokens")
"""Settings with which an adapter is more than s · B · A, added to the weights."""


class MergesLora(MergesUpdates):
    """Merges adapters of LoRA by Σ_i w_i s_i B_i A_i, what they add to the weights of the base."""

    @classmethod
    def can_merge_updates(cls, folder: Path) -> bool:
        """Whether the adapter is LoRA."""
        return read_config(folder).peft_type == "LORA"

    @classmethod
    def merge_updates(
        cls, empty: Callable[[], nn.Module], folders: Sequence[Path], merged: MergedUpdate
    ) -> None:
        """Write the merged LoRA.

        With `one_rank` it has the ranks and scales of the first one, and is what of these ranks is
        nearest. Otherwise its rank is the sum of the ranks, at which the weighted sum is exact.
        """
        configs = [_lora_config(folder) for folder in folders]
        states = [read_tensors(folder) for folder in folders]

        rank = sum(map(_largest_rank, configs))
        if merged.one_rank:
            rank = _largest_rank(configs[0])

        model = get_peft_model(empty(), _for_merging(configs[0]), adapter_name=_FIRST)
        names = [f"expert_lora_{index}" for index in range(len(folders))]
        for name, config, state in zip(names, configs, states, strict=True):
            if name != _FIRST:
                model.add_adapter(name, _for_merging(config))
            set_peft_model_state_dict(model, _matrices(state), adapter_name=name)
        layers = _merge(model, merged, names, rank)

        if merged.one_rank:
            config = configs[0]
            for layer in layers:
                _fit(layer, layer.r[_FIRST], layer.scaling[_FIRST])
        else:
            config = replace(
                configs[0], r=rank, lora_alpha=rank, rank_pattern={}, alpha_pattern={},
                use_rslora=False, target_modules=model.peft_config[_MERGED].target_modules,
            )  # fmt: skip
            for layer in layers:
                _fit(layer, rank, 1.0)

        tensors = get_peft_model_state_dict(
            model, adapter_name=_MERGED, save_embedding_layers=False
        )
        tensors = {name: part.to(states[0][name].dtype) for name, part in tensors.items()}
        write_adapter(merged.folder, config, {**tensors, **_means(states, merged)})


def _lora_config(folder: Path) -> LoraConfig:
    """The configuration of a LoRA that is nothing but an update of weights."""
    config = read_config(folder)
    settings = vars(config)
    found = [name for name in _UNLIKE_AN_UPDATE if settings.get(name)]

    if not isinstance(config, LoraConfig) or found:
        listed = ", ".join(f"{name}={settings[name]!r}" for name in found)
        raise ConfigurationError(
            "Adapters can be merged as LoRA if they are two matrices for each layer. Found"
            f" {type(config).__name__}({listed}) in {folder.name!r}. Merge each language into a"
            " plain model instead: `merge_language(language)`."
        )
    return config


def _for_merging(config: LoraConfig) -> LoraConfig:
    """The same without what neither changes the matrices nor can be made without the base."""
    config = copy.deepcopy(config)
    config.init_lora_weights = True
    config.modules_to_save = config.trainable_token_indices = config.task_type = None
    config.auto_mapping = None
    return config


def _largest_rank(config: LoraConfig) -> int:
    return max(config.r, *(config.rank_pattern or {}).values(), 0)


def _matrices(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if _MATRIX in name}


def _merge(
    model: PeftModel, merged: MergedUpdate, adapters: list[str], rank: int
) -> list[LoraLayer]:
    """Let PEFT merge, and return the layers that have a merged adapter."""
    # Of unequal ranks "linear" and "ties" cannot be, and they mix factors rather than updates.
    if merged.density is not None:
        kind = "ties_svd"
    elif merged.one_rank:
        kind = "svd"
    else:
        kind = "cat"

    # PEFT divides by the number of adapters that agree, so that 1 each is the method of the paper
    weights = list(merged.weights)
    if merged.density is not None:
        weights = [len(weights) * weight for weight in weights]

    # the scales of the sources are in their layers already, and that of the result has to be 1
    model.peft_config[_FIRST].use_rslora = False
    tuner: Any = model.base_model
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The density 1")
        tuner.add_weighted_adapter(
            adapters,
            weights,
            _MERGED,
            combination_type=kind,
            svd_rank=rank,
            svd_full_matrices=False,
            density=merged.density,
        )

    layers = [part for part in model.modules() if isinstance(part, LoraLayer)]
    return [part for part in layers if _factors(part)]


def _factors(layer: LoraLayer) -> tuple[nn.Parameter, ...]:
    """The matrices A and B of the merged adapter in a layer; none if it has none there."""
    if _MERGED in layer.lora_A:
        return layer.lora_A[_MERGED].weight, layer.lora_B[_MERGED].weight
    if _MERGED in layer.lora_embedding_A:
        return layer.lora_embedding_A[_MERGED], layer.lora_embedding_B[_MERGED]
    return ()


def _fit(layer: LoraLayer, rank: int, scale: float) -> None:
    """Give the matrices in a layer the rank and the scale that the configuration says."""
    down, up = _factors(layer)  # A: (r, inputs), B: (outputs, r); the largest components first
    kept = min(rank, down.shape[0])

    new_down = down.new_zeros(rank, *down.shape[1:])
    new_up = up.new_zeros(up.shape[0], rank, *up.shape[2:])
    new_down[:kept] = down.detach()[:kept]
    new_up[:, :kept] = up.detach()[:, :kept] / scale
    down.data, up.data = new_down, new_up


def _means(states: Sequence[Mapping[str, Tensor]], merged: MergedUpdate) -> dict[str, Tensor]:
    """What lies in the files beside the matrices: whole modules, rows of embeddings."""
    names = [name for name in states[0] if _MATRIX not in name]
    if names and merged.density is not None:
        raise ConfigurationError(
            "TIES needs the start of each parameter. Found, beside LoRA, whole modules or tokens of"
            f' which it is not known: {names[:3]}. Use `method="linear"`.'
        )

    return {
        name: weighted_mean((state[name] for state in states), merged.weights) for name in names
    }
