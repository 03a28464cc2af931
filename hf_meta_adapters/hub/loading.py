"""From the folder of a saved model to its weights: into a model in place, or as a new base."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import transformers
from torch import Tensor, nn

from hf_meta_adapters._typing import ModelArguments, ModelClass
from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub._added_rows import add_saved_rows
from hf_meta_adapters.hub._json_file import shown
from hf_meta_adapters.hub._needed_files import ADAPTER_CONFIG, CONFIG, shard_names
from hf_meta_adapters.hub._number_types import check_number_types
from hf_meta_adapters.hub._safety import check_texts
from hf_meta_adapters.hub._settings import check_settings, is_quantized
from hf_meta_adapters.hub.checksums import check_files
from hf_meta_adapters.hub.client import Access
from hf_meta_adapters.hub.foreign_errors import reading, reading_adapter
from hf_meta_adapters.hub.limits import Amount, amount_in, at_most
from hf_meta_adapters.hub.manifest import SHARED_ADAPTER, Family, manifest_key, read_manifest

_RULE = "The shared weights must be a transformers checkpoint in safetensors format."
_IDENTITY = (
    "base_class",
    "backend",
    "one_adapter_for_all",
    "theta_is_adapter",
    "base_model",
)


class AdapterReader(Protocol):
    """Holds the base model and reads the adapters of its languages: a backend."""

    base: nn.Module

    def load(self, language: str, directory: Path, body: str | None = None) -> None:
        """Read an adapter."""


class ThetaReader(Protocol):
    """Reads θ where it is an adapter."""

    def load(self, directory: Path, body: str | None = None) -> None:
        """Read it."""


def load_weights(
    folder: Path,
    own: Family,
    backend: AdapterReader,
    state: Mapping[str, Tensor],
    shared: ThetaReader | None = None,
) -> None:
    """Read shared weights and adapters into a model that already has them, in place.

    Args:
        folder: Where from.
        own: What the manifest of the model would be; the folder may hold further languages.
        backend: Holds the model and reads the adapters.
        state: The live tensors of the base model under the names of its own checkpoint.
        shared: θ, where it is an adapter.

    Raises:
        HubError: If the files are of another model, or damaged.
    """
    family = read_manifest(folder)

    # A base that was saved is read, whether or not it could be named by now.
    if not family.base_model:
        own = replace(own, base_model="")

    differences = _differences(family, own)
    if not differences:
        check_texts(folder, family, own.languages)
        check_files(folder, family, own.languages)

    # Nothing is written before everything is known to fit.
    saved: dict[str, Tensor] = {}
    if not differences and not family.base_model:
        # As a model of its own, since transformers knows how shards and tied tensors are stored.
        saved = load_base(folder, family, cast(ModelClass, type(backend.base)), {}).state_dict()
        differences = _shape_differences(saved, state)

    if differences:
        raise HubError(
            f"A checkpoint must be of this very model. Found in {folder}: {'; '.join(differences)}."
            " Use `LanguageAdapterModel.from_pretrained(...)` to load it as a model of its own."
        )

    # In place: an optimizer holds these very tensors.
    with torch.no_grad():
        for name in saved.keys() & state.keys():
            state[name].copy_(saved[name])

    if shared is not None:
        with reading_adapter(folder / SHARED_ADAPTER):
            shared.load(folder / SHARED_ADAPTER)

    for adapter in family.adapters(own.languages):
        with reading_adapter(folder / adapter):
            backend.load(adapter, folder / adapter)


def load_base(
    folder: Path,
    family: Family,
    auto_class: ModelClass | None,
    arguments: ModelArguments,
    access: Access | None = None,
) -> nn.Module:
    """Load the shared weights without adapters, in the type in which they were saved.

    Args:
        folder: Where from.
        family: The manifest.
        auto_class: The class that loads them; `None` for the class that was saved.
        arguments: Further arguments of its `from_pretrained`; files other than safetensors are
            never read, and code of a repository is never run.
        access: How to reach the repository of a base that the family only names.

    Returns:
        The transformers model.

    Raises:
        HubError: If the class is unknown, or files are missing, damaged, or of other shapes or
            kinds of numbers than configured.
    """
    model_class = auto_class or _saved_class(family.base_class)
    source = family.base_model or str(folder)
    if Path(source).is_dir():
        # a base that is only named may be in another folder
        check_settings(Path(source) / CONFIG)

    with reading(source, _RULE, _remedy(arguments)), _as_large_as(source, arguments):
        if not family.base_model:
            check_number_types(folder, _own_class(family.base_class, model_class))

        defaults = _defaults(folder, family, arguments, access)
        model, report = model_class.from_pretrained(
            source,
            **{
                **defaults,
                **arguments,
                "use_safetensors": True,
                "trust_remote_code": False,
                "output_loading_info": True,
                # The report then names every tensor, where an error would name the first.
                "ignore_mismatched_sizes": True,
            },
        )

    if family.base_model and family.theta_is_adapter:
        add_saved_rows(folder, model)

    mismatched = report["mismatched_keys"]
    if mismatched and not arguments.get("ignore_mismatched_sizes"):
        shapes = "; ".join(sorted(map(_mismatch, mismatched)))
        raise HubError(
            f"{_RULE} Found in {source} shapes that differ from those of the configuration:"
            f" {shapes}. Download or save the model again, or pass `ignore_mismatched_sizes=True`"
            " to initialize these tensors afresh."
        )

    # Of another class, a model has a head of its own, which must be missing from the checkpoint.
    missing = sorted(report["missing_keys"])
    if missing and type(model).__name__ == family.base_class:
        raise HubError(
            f"{_RULE} Found in {source} a checkpoint without {missing}. Download or save the model"
            " again."
        )

    return model


def empty_base(folder: Path, family: Family) -> nn.Module:
    """Make the base of a family with the right shapes, and without memory for its weights.

    Args:
        folder: Where the family is.
        family: The manifest.

    Returns:
        The transformers model, all of whose parameters are zero and cannot be written to.

    Raises:
        HubError: If the class is unknown.
    """
    check_settings(folder / CONFIG)
    config = transformers.AutoConfig.from_pretrained(str(folder))
    model_class: Any = _saved_class(family.base_class)
    with torch.device("meta"):
        model: nn.Module = model_class(config)

    # on the CPU, where adapters that are put into it will be
    for part in model.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                zeros = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
                part._parameters[name] = nn.Parameter(zeros, requires_grad=False)

    return model


def check_adapter(folder: Path) -> None:
    """Refuse the folder of a single adapter if its configuration is no such thing.

    Args:
        folder: The folder.

    Raises:
        HubError: If `adapter_config.json` cannot be read, or names code or senseless numbers.
    """
    check_settings(folder / ADAPTER_CONFIG, is_adapter=True)


def _remedy(arguments: ModelArguments) -> str:
    """What to do about files that cannot be loaded; arguments may be to blame as well."""
    remedy = "Download or save the model again"
    if not arguments:
        return remedy

    listed = ", ".join(f"{name}={shown(value)}" for name, value in arguments.items())
    return f"{remedy}, or correct the arguments {listed}"


def _as_large_as(source: str, arguments: ModelArguments) -> AbstractContextManager[None]:
    """Refuse a model that is much larger than its files, unless the user has asked for that."""
    folder = Path(source)
    if not folder.is_dir() or "config" in arguments:
        return nullcontext()

    labels = arguments.get("num_labels")
    amount = amount_in(folder / name for name in shard_names(folder))
    if isinstance(labels, int):
        # a head, of a width that no model exceeds
        amount += Amount(1, 2**14 * labels)

    return at_most(amount, folder, packed=is_quantized(folder))


def _differences(family: Family, own: Family) -> list[str]:
    """How a saved family is not that of a model."""
    differences = []

    for attribute in _IDENTITY:
        saved, live = getattr(family, attribute), getattr(own, attribute)
        if saved != live:
            key = manifest_key(attribute)
            differences.append(f"{key}={shown(saved)} where the model has {live!r}")

    absent = [key for key in own.languages if key not in family.languages]
    return differences + [f"no language {key!r}" for key in absent]


def _shape_differences(saved: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    differences = []

    for name, tensor in state.items():
        shape = None
        if name in saved:
            shape = tuple(saved[name].shape)

        if shape != tuple(tensor.shape):
            differences.append(f"{name} of shape {shape}, not {tuple(tensor.shape)}")

    return differences


def _defaults(
    folder: Path, family: Family, arguments: ModelArguments, access: Access | None
) -> dict[str, Any]:
    """The arguments of `from_pretrained` that the user may override."""
    defaults: dict[str, Any] = {}

    # transformers 4 would load in float32 whatever was saved.
    if not {"dtype", "torch_dtype"} & set(arguments):
        defaults["dtype"] = "auto"

    if not family.base_model:
        return defaults

    # Of a base that is only named, the folder keeps the config with which it was loaded.
    config = transformers.AutoConfig.from_pretrained(str(folder))
    if "dtype" in defaults and config.dtype is not None:
        defaults["dtype"] = config.dtype

    quantization = getattr(config, "quantization_config", None)
    if quantization is not None:
        defaults["quantization_config"] = quantization

    # The revision of `access` is that of the family, so the base has its own.
    if access is not None:
        defaults |= _reached(access)
    defaults["revision"] = family.base_revision or None

    return defaults


def _reached(access: Access) -> dict[str, Any]:
    """How the repository of the family is reached, as arguments of `from_pretrained`."""
    options = {
        "token": access.token,
        "cache_dir": access.cache_dir,
        "local_files_only": access.local_files_only or None,
    }

    return {name: value for name, value in options.items() if value is not None}


def _mismatch(entry: str | tuple[str, torch.Size, torch.Size]) -> str:
    """A tensor of another shape, with both shapes where transformers tells them."""
    if isinstance(entry, str):
        return entry

    name, in_file, in_model = entry
    return f"{name}: {tuple(in_file)}, not {tuple(in_model)}"


def _own_class(name: str, other: object = None) -> type[transformers.PreTrainedModel] | None:
    """The class whose names saved weights have, by its name, or else another one, if it is one."""
    # A manifest from elsewhere may name anything, so the attribute must turn out to be a model.
    for found in (getattr(transformers, name, None), other):
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found

    return None


def _saved_class(name: str) -> type[transformers.PreTrainedModel]:
    """The model class of transformers of that name."""
    found = _own_class(name)
    if found is None:
        raise HubError(
            "The saved class of the base model must be a model class of transformers. Found"
            f" {shown(name)}. Pass the class that should load it: `from_pretrained(...,"
            " auto_class=...)`."
        )

    return found
