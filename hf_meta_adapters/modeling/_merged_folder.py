"""Several saved families, merged into the folder of one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.anatomy.name_patterns import check_patterns
from hf_meta_adapters.backends.abilities import MergedUpdate, MergesUpdates
from hf_meta_adapters.backends.registry import backend_named
from hf_meta_adapters.errors import ConfigurationError, check_languages
from hf_meta_adapters.hub.experts import (
    Expert,
    Tensors,
    adapter_tensors,
    checkpoint_tensors,
    write_family,
)
from hf_meta_adapters.hub.loading import empty_base
from hf_meta_adapters.hub.manifest import SHARED_ADAPTER, Family
from hf_meta_adapters.hub.record import MERGED
from hf_meta_adapters.meta.task_vectors import ties, weighted_mean

_TEXTS = ("config.json", "generation_config.json")
_SHOWN = 3


@dataclass(frozen=True)
class Merging:
    """How families become one.

    Args:
        experts: The families.
        density: The share of the entries of each task vector that TIES keeps; `None` for the
            weighted mean.
        base: The folder of a checkpoint of the base, where TIES needs it.
    """

    experts: Sequence[Expert]
    density: float | None
    base: Path | None = None

    @property
    def family(self) -> Family:
        """The manifest of the first family."""
        return self.experts[0].family

    @property
    def method(self) -> str:
        """The name of the method."""
        return "linear" if self.density is None else "ties"

    def languages(self) -> dict[Language, list[Expert]]:
        """Every language → the families that have it, in the order in which they are given."""
        owners: dict[Language, list[Expert]] = {}
        for expert in self.experts:
            for language in expert.family.languages:
                owners.setdefault(language, []).append(expert)

        check_languages(owners)
        return owners


def write_merged(folder: Path, merging: Merging) -> bool:
    """Write the merged family; beside the sum, tensors are in memory one after another.

    Args:
        folder: A new folder.
        merging: What is merged, and how.

    Returns:
        Whether adapters of some language are a mean, parameter by parameter.

    Raises:
        ConfigurationError: If the weights of a frozen base differ, or TIES would need the start of
            parameters of which it is not known.
        LanguageError: If keys of different families differ by letter case alone.
    """
    folder.mkdir()
    owners, family = merging.languages(), merging.family
    for name in _TEXTS:
        if (merging.experts[0].folder / name).is_file():
            shutil.copyfile(merging.experts[0].folder / name, folder / name)

    if not family.base_model:
        with ExitStack() as stack:
            merged = _merged_checkpoint(merging, stack)
        save_torch_state_dict(merged, folder)

    if family.theta_is_adapter:
        _merge_adapters(folder, SHARED_ADAPTER, merging, "peft", one_rank=False)

    means = False
    for adapter in family.adapters(list(owners)):
        # the one adapter of all languages has no others that it has to look like
        alone = family.one_adapter_for_all
        some = replace(merging, experts=merging.experts if alone else owners[adapter])
        means |= _merge_adapters(folder, adapter, some, family.backend, one_rank=not alone)

    details = {MERGED: _record(merging)}
    write_family(folder, replace(family, languages=tuple(owners), details=details, hashes={}))
    return means


def _record(merging: Merging) -> dict[str, object]:
    record: dict[str, object] = {
        "method": merging.method,
        "families": [expert.record() for expert in merging.experts],
    }
    if merging.density is not None:
        record["density"] = merging.density
    return record


def _merged_checkpoint(merging: Merging, stack: ExitStack) -> dict[str, Tensor]:
    """θ merged, tensor by tensor, and what is frozen as it is."""
    files = [checkpoint_tensors(expert.folder, stack) for expert in merging.experts]
    names, labels = files[0].keys(), [expert.label for expert in merging.experts]
    base: Tensors = {}
    if merging.base is not None:
        base = checkpoint_tensors(merging.base, stack)
        files, labels = [*files, base], [*labels, "base_model"]

    for file, label in zip(files, labels, strict=True):
        if file.keys() != names:
            raise _unlike(sorted(file.keys() ^ names), label, labels[0], "is not in both")

    shared = merging.family.shared
    is_theta: Callable[[str], object] = partial(_matches, shared)
    if shared not in ("all", "none"):
        check_patterns("shared", [shared], list(names), "search")

    merged, frozen = {}, []
    for name in names:
        first = files[0][name]()
        if is_theta(name) and first.is_floating_point():
            merged[name] = _merged(name, files[: len(merging.experts)], merging, base)
        else:
            merged[name] = first
            if not all(torch.equal(first, file[name]()) for file in files[1:]):
                frozen.append(name)

    if frozen:
        raise _unlike(frozen, "one of the others", labels[0], "which is frozen, has other values")
    return merged


def _matches(shared: str, name: str) -> bool:
    """Whether a tensor of a checkpoint is part of θ."""
    return shared == "all" or (shared != "none" and re.search(shared, name) is not None)


def _merged(name: str, files: Sequence[Tensors], merging: Merging, base: Tensors) -> Tensor:
    weights = [expert.weight for expert in merging.experts]

    def read() -> Iterator[Tensor]:
        return (file[name]() for file in files)

    if merging.density is None:
        return weighted_mean(read(), weights)

    # 1 for each is the method of the paper
    weights = [len(weights) * weight for weight in weights]
    return ties(base[name](), read, weights, merging.density)


def _merge_adapters(
    folder: Path, adapter: str, merging: Merging, backend: str, *, one_rank: bool
) -> bool:
    """Write one adapter; return whether it is a mean of several, parameter by parameter."""
    experts = merging.experts
    sources = [expert.folder / adapter for expert in experts]
    if len(sources) == 1:
        shutil.copytree(sources[0], folder / adapter)
        return False

    # of a language that only some families have
    total = sum(expert.weight for expert in experts)
    weights = [expert.weight / total for expert in experts]

    merges = backend_named(backend)
    if issubclass(merges, MergesUpdates) and merges.can_merge_updates(sources[0]):
        merged = MergedUpdate(folder / adapter, weights, merging.density, one_rank)
        empty = partial(empty_base, experts[0].folder, experts[0].family)
        merges.merge_updates(empty, sources, merged)
        return False

    if merging.density is not None:
        raise ConfigurationError(
            "TIES needs the start of each parameter, which is known of θ and of LoRA. Found"
            f" {[expert.label for expert in experts]}, which all have an adapter {adapter!r} of"
            ' another method. Use `method="linear"`, or leave all but one of them out.'
        )

    (folder / adapter).mkdir()
    for path in sources[0].iterdir():
        if path.suffix == ".json":
            shutil.copyfile(path, folder / adapter / path.name)
    _write_means(folder / adapter, sources, weights)
    return True


def _write_means(target: Path, sources: Sequence[Path], weights: Sequence[float]) -> None:
    with ExitStack() as stack:
        files = [adapter_tensors(source, stack) for source in sources]
        for file, source in zip(files, sources, strict=True):
            if file.keys() != files[0].keys():
                found = sorted(file.keys() ^ files[0].keys())
                raise _unlike(found, str(source), str(sources[0]), "is not in both")

        means = {
            name: weighted_mean((file[name]() for file in files), weights) for name in files[0]
        }

    (weights_file,) = sources[0].glob("*.safetensors")
    save_file(means, target / weights_file.name, metadata={"format": "pt"})


def _unlike(names: Sequence[str], other: str, first: str, how: str) -> ConfigurationError:
    listed = ", ".join(f"`{name}`" for name in names[:_SHOWN])
    if len(names) > _SHOWN:
        listed += f" and {len(names) - _SHOWN} more"

    return ConfigurationError(
        "Families that are merged must have been trained from one base model. Found, comparing"
        f" {other!r} with {first!r}, that {listed} {how}. Leave out the family that differs, or"
        " train it again from the base of the others."
    )
