"""An adapter of PEFT as a folder: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftConfig
from safetensors.torch import save_file
from torch import Tensor

from hf_meta_adapters.backends.weights_file import WEIGHTS
from hf_meta_adapters.errors import ConfigurationError, HubError

CONFIG = "adapter_config.json"
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_NAMES_OF_MODULES = ("target_modules", "feedforward_modules", "exclude_modules")
_NOT_COMPARED = {
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "task_type",
    "auto_mapping",
}


def write_adapter(
    directory: Path, config: PeftConfig, state: Mapping[str, Tensor], base: str | None = None
) -> None:
    """Write an adapter as `PeftModel.save_pretrained` does.

    Args:
        directory: Where to; created if it is missing.
        config: Its configuration.
        state: Its tensors, under the names of a file.
        base: The name of the base model; `None` if that is the folder above, wherever that will be.
    """
    config = copy.deepcopy(config)
    config.inference_mode, config.base_model_name_or_path = True, base
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(str(directory))


def read_config(directory: Path, body: str | None = None) -> PeftConfig:
    """Read `adapter_config.json`.

    Args:
        directory: The folder of the adapter.
        body: For a model of another class over the same body, the prefix of the body's names, which
            is then taken off.

    Returns:
        The configuration, without the name of a base model.

    Raises:
        HubError: If it is missing, or cannot be read.
    """
    rule = f"An adapter must have a file `{CONFIG}` of PEFT."
    if not (directory / CONFIG).is_file():
        raise HubError(f"{rule} Found none in {directory}. Download or save the model again.")
    try:
        config = PeftConfig.from_pretrained(str(directory))
    except (KeyError, TypeError, ValueError) as error:
        raise HubError(
            f"{rule} Found in {directory} one that cannot be read: {type(error).__name__}: {error}."
            " Download or save the model again, or install the version of peft that wrote it."
        ) from error
    config.base_model_name_or_path = None
    for setting in _NAMES_OF_MODULES if body else ():
        names = getattr(config, setting, None)
        if isinstance(names, (list, set)):
            setattr(config, setting, type(names)(name.removeprefix(f"{body}.") for name in names))
    return config


def check_same_config(own: PeftConfig, directory: Path, body: str | None) -> None:
    """Refuse an adapter that has the right shapes but means something else by them, such as another scaling.

    Args:
        own: The configuration of the adapter in the model.
        directory: The folder of the adapter to read.
        body: As in `read_config`.

    Raises:
        HubError: If the two differ in what counts.
    """
    here, saved = own.to_dict(), read_config(directory, body).to_dict()
    wrong = [
        f"{name}={saved.get(name)!r}, not {here.get(name)!r}"
        for name in sorted(here.keys() | saved.keys())
        if name not in _NOT_COMPARED and _plain(here.get(name)) != _plain(saved.get(name))
    ]
    if wrong:
        raise HubError(
            f"All languages must have adapters of one configuration. Found in {directory / CONFIG}:"
            f" {'; '.join(wrong)}. Train the adapter anew with the configuration of the others."
        )


def check_initialisation(config: PeftConfig) -> None:
    """Refuse a way to begin that changes the base model, which all languages share."""
    how = getattr(config, "init_lora_weights", True)
    if isinstance(how, str) and how.lower().startswith(_CHANGES_THE_BASE):
        raise ConfigurationError(
            "A new adapter must leave the base model as it is, since all languages share it. Found"
            f" `init_lora_weights={how!r}`, which changes it. Write for example"
            " `init_lora_weights=True`."
        )


def _plain(value: Any) -> Any:
    """A setting as JSON would have it: sets come back as lists, in any order."""
    return sorted(map(str, value)) if isinstance(value, (set, frozenset, list, tuple)) else value
