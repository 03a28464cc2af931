"""An adapter of the library `adapters` as a folder: its configuration and `adapter.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters import AdapterConfig
from adapters.configuration import build_full_config
from adapters.loading import AdapterLoader
from adapters.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor

from hf_meta_adapters.backends.weights_file import check_fit, read_tensors
from hf_meta_adapters.errors import HubError

_LONGEST = 200
"""The most characters that a message shows of a setting."""

_NOT_COMPARED = {"dropout", "init_weights", "init_weights_seed"}


def write_adapter(directory: Path, model: Any, name: str, state: Mapping[str, Tensor]) -> None:
    """Write an adapter as `model.save_adapter(..., use_safetensors=True)` does, without a head.

    Args:
        directory: The folder to write to; created if it is missing.
        model: The transformers model, with adapters.
        name: The name of the adapter in it.
        state: The adapter's tensors.
    """
    config = build_full_config(
        model.adapters_config.get(name),
        model.config,
        model_name=None,
        name=name,
        model_class=type(model).__name__,
    )
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)

    # a clone each: safetensors refuses tensors that share memory
    tensors = {key: tensor.detach().contiguous().clone() for key, tensor in state.items()}

    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})
    (directory / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")


def read_adapter(
    directory: Path, model: Any, name: str, state: dict[str, Tensor], paths: Mapping[str, str]
) -> dict[str, Tensor]:
    """Read an adapter, saved under any name, for the place of one in a model.

    Args:
        directory: The folder of the adapter.
        model: The transformers model, with adapters.
        name: The name of the adapter in it.
        state: The adapter's tensors.
        paths: Every path under which the library may have saved one of them → its name in `state`.

    Returns:
        name → tensor, for the names of `state`.

    Raises:
        HubError: If files are missing or damaged, or the adapter has another configuration or does
            not fit.
    """
    saved = _read_json(directory)
    _check_same_config(model.adapters_config.get(name), directory, saved["config"])

    # A body has its names with a prefix inside a model with a head, and adapters lie in the body.
    body = f"{model.base_model_prefix}."
    places = {path.removeprefix(body): place for path, place in paths.items()}
    rename = AdapterLoader(model).rename_func(saved["name"], name)

    tensors = {}
    for key, tensor in read_tensors(directory, SAFE_WEIGHTS_NAME, WEIGHTS_NAME).items():
        # the library expects a dot before the name of a container, even at the very beginning
        path = rename(f".{key.removeprefix(body)}").removeprefix(".")
        tensors[places.get(path, path)] = tensor

    check_fit(directory / SAFE_WEIGHTS_NAME, state, tensors)
    return tensors


def read_config(directory: Path) -> AdapterConfig:
    """Read the configuration of an adapter.

    Args:
        directory: The folder of the adapter.

    Raises:
        HubError: If `adapter_config.json` is missing or cannot be read.
    """
    return _loaded(directory, _read_json(directory)["config"])


def _check_same_config(own: AdapterConfig, directory: Path, saved: object) -> None:
    """Refuse an adapter of the right shapes that means something else, as by another activation."""
    here, there = _settings(own), _settings(_loaded(directory, saved))
    differences = [
        f"{key}={_short(there.get(key))}, not {_short(here.get(key))}"
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key)
    ]
    if differences:
        raise HubError(
            "All languages must have adapters of the same configuration. Found in"
            f" {directory / CONFIG_NAME}: {'; '.join(differences)}. Pass `get_language_model` the"
            f' configuration of the adapter: `AdapterConfig.load(".../{CONFIG_NAME}")`.'
        )


def _settings(config: AdapterConfig) -> dict[str, Any]:
    """The settings of a configuration that matter, as JSON has them; those of a union numbered."""
    members = config.to_dict().get("configs") or [config.to_dict()]

    # two members of a union may have settings of one name
    settings = {}
    for number, member in enumerate(members):
        start = f"{number}." if len(members) > 1 else ""
        for key, value in member.items():
            if key not in _NOT_COMPARED:
                settings[f"{start}{key}"] = value

    # tuples come back as lists, so that both sides compare as what a file can hold
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _short(value: object) -> str:
    """A setting in a message, of which a file may hold megabytes."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _loaded(directory: Path, config: object) -> AdapterConfig:
    """A configuration from what a file holds."""
    try:
        return AdapterConfig.load(config)
    except Exception as error:
        # any JSON may be in a downloaded file, and the library does not check it
        raise HubError(
            "An adapter must have a configuration that `adapters` knows. Found in"
            f" {directory / CONFIG_NAME} {_short(config)}: {type(error).__name__}:"
            f" {str(error)[:_LONGEST]}. Install the version of adapters that wrote it."
        ) from error


def _read_json(directory: Path) -> dict[str, Any]:
    """The content of `adapter_config.json`, with a name and a configuration."""
    rule = f"An adapter must have a file `{CONFIG_NAME}` of the library `adapters`."
    path = directory / CONFIG_NAME
    if not path.is_file():
        raise HubError(f"{rule} Found none in {directory}. Download or save it again.")

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise HubError(
            f"{rule} Found no JSON in {directory}: {error}. Download or save it again."
        ) from error

    # any JSON may be in a downloaded file
    is_mapping = isinstance(content, dict)
    if not (is_mapping and isinstance(content.get("name"), str) and content.get("config")):
        raise HubError(
            f"{rule} Found one without `name` and `config` in {directory}. Download or save it"
            " again."
        )
    return content
