"""Several adapters of LoRA as one, of the sum of their ranks."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional

from hf_meta_adapters.backends.peft._files import write_adapter
from hf_meta_adapters.errors import ConfigurationError

_PREFIX = "base_model.model."
"""What the names in a file of PEFT begin with."""


@dataclass(frozen=True)
class Source:
    """One of the adapters.

    Args:
        name: Its name in the layers of PEFT.
        config: Its configuration.
        tensors: All of its tensors, under the names of a file.
    """

    name: str
    config: PeftConfig
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class _Matrices:
    """B · A of one adapter in one layer, with its scale in B."""

    down: Tensor  # A: (r, inputs)
    up: Tensor  # B: (outputs, r)
    labels: tuple[str, str]
    used: tuple[Tensor, Tensor]


def export_stacked(
    base: nn.Module, sources: Sequence[Source], directory: Path, base_name: str | None
) -> None:
    """Write [s_0 B_0, s_1 B_1, …] · [A_0; A_1; …], which is Σ_i s_i B_i A_i, as one LoRA.

    Servers read one rank and one scale from `adapter_config.json`, and neither `rank_pattern` nor
    `alpha_pattern`. So all layers get the largest rank (zeros fill the others up), and the scale,
    which is part of B, is 1.

    Args:
        base: The transformers model, with the adapters in it.
        sources: The adapters.
        directory: The folder to write to.
        base_name: What the base model is called, if it has a name.

    Raises:
        ConfigurationError: If an adapter is anything but two matrices for each layer.
    """
    for source in sources:
        _check_method(source.config)

    stacked: dict[str, _Matrices] = {}
    used: set[int] = set()
    for name, layer in base.named_modules():
        if not isinstance(layer, LoraLayer):
            continue

        several = [_matrices(layer, source.name) for source in sources]
        parts = [part for part in several if part is not None]
        if parts:
            stacked[name] = _side_by_side(parts)
            used.update(id(tensor) for part in parts for tensor in part.used)

    _check_complete(sources, used)
    rank = max(part.down.shape[0] for part in stacked.values())
    tensors: dict[str, Tensor] = {}
    for name, part in stacked.items():
        missing = rank - part.down.shape[0]
        down, up = part.labels
        tensors[f"{_PREFIX}{name}.{down}"] = _filled_up(part.down, 0, missing)
        tensors[f"{_PREFIX}{name}.{up}"] = _filled_up(part.up, 1, missing)

    last = sources[-1].config
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=_targets(base, list(stacked)),
        fan_in_fan_out=vars(last)["fan_in_fan_out"],
        task_type=last.task_type,
    )
    write_adapter(directory, config, tensors, base_name or "")


def _matrices(layer: LoraLayer, adapter: str) -> _Matrices | None:
    """The matrices of an adapter in a layer, if it has any there."""
    if adapter in layer.lora_A:
        labels = ("lora_A.weight", "lora_B.weight")
        down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    elif adapter in layer.lora_embedding_A:
        labels = ("lora_embedding_A", "lora_embedding_B")
        down, up = layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
    else:
        return None

    variant = layer.lora_variant.get(adapter)
    if variant is not None:
        raise _not_exported(f"the variant `{type(variant).__name__}` of LoRA")
    if isinstance(layer, ParamWrapper):
        raise _not_exported("`target_parameters`, with matrices for each expert")

    scale = float(layer.scaling[adapter])
    values = up.detach()
    # a scale that is no power of two would round once more in a half precision
    if math.frexp(scale)[0] != 0.5:
        values = values.to(torch.promote_types(values.dtype, torch.float32))
    return _Matrices(down.detach(), values * scale, labels, (down, up))


def _side_by_side(parts: Sequence[_Matrices]) -> _Matrices:
    down = torch.cat([part.down for part in parts], 0)
    up = torch.cat([part.up for part in parts], 1)
    return _Matrices(down, up, parts[0].labels, parts[0].used)


def _filled_up(matrix: Tensor, dimension: int, missing: int) -> Tensor:
    """A matrix with zeros behind it."""
    # from the last dimension to the first, two numbers for each
    sizes = [0] * (2 * matrix.dim())
    sizes[2 * (matrix.dim() - 1 - dimension) + 1] = missing
    return functional.pad(matrix, sizes)


def _targets(base: nn.Module, names: Sequence[str]) -> list[str] | str:
    """`target_modules` that find exactly these modules in the model without adapters."""
    inside = tuple(f"{name}." for name, part in base.named_modules() if _is_layer(part))
    known = [name for name, _ in base.named_modules() if not name.startswith(inside)]

    short = sorted({name.rsplit(".", 1)[-1] for name in names})
    for targets in (short, sorted(names)):
        found = [name for name in known if _matches(name, targets)]
        if set(found) == set(names):
            return targets

    # as a regular expression, of which PEFT takes full matches
    return "|".join(re.escape(name) for name in names)


def _is_layer(part: nn.Module) -> bool:
    return isinstance(part, BaseTunerLayer)


def _matches(name: str, targets: Sequence[str]) -> bool:
    """Whether PEFT finds a module, given a list."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _check_method(config: PeftConfig) -> None:
    if config.peft_type != "LORA":
        raise _not_exported(f"`{type(config).__name__}`")
    if vars(config).get("use_dora"):
        raise _not_exported("`use_dora=True`, which scales the columns of the merged weight")


def _check_complete(sources: Sequence[Source], used: set[int]) -> None:
    """Refuse adapters with tensors that are not in the matrices."""
    left = sorted(
        name
        for source in sources
        for name, tensor in source.tensors.items()
        if id(tensor) not in used
    )
    if left:
        raise _not_exported(
            f"also {left[:3]}, {len(left)} tensors in all (`bias`, `lora_bias`,"
            " `modules_to_save` and `trainable_token_indices` add such)"
        )


def _not_exported(found: str) -> ConfigurationError:
    return ConfigurationError(
        "Only adapters that are two matrices for each layer can be exported as one LoRA. Found"
        f" {found}. Export the plain model of the language instead: `merge_language(language)`,"
        " then `save_pretrained`."
    )
