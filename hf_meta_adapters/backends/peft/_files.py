"""An adapter of PEFT as a folder: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

from peft import PeftConfig
from safetensors.torch import save_file
from torch import Tensor

from hf_meta_adapters.backends.weights_file import WEIGHTS
from hf_meta_adapters.errors import ConfigurationError, HubError

CONFIG = "adapter_config.json"
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_NAMES_OF_MODULES = ("target_modules", "feedforward_modules", "exclude_modules")
LONGEST = 300
"""The most characters that a message shows of a setting."""

_NOT_COMPARED = {
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "task_type",
    "auto_mapping",
}


def write_adapter(
    directory: Path, config: PeftConfig, state: Mapping[str, Tensor], base: str = ""
) -> None:
    """Write an adapter as `PeftModel.save_pretrained` does.

    Args:
        directory: The folder to write to; created if it is missing.
        config: The configuration of the adapter.
        state: Its tensors, under the names of a file.
        base: The name of the base model; "" if that is the parent folder, which may be moved.
    """
    # as PEFT saves it: whoever loads the adapter does not train it, unless asked to
    config = copy.deepcopy(config)
    config.inference_mode = True
    # not `None`, by which transformers would look for a repository of that name on the Hub
    config.base_model_name_or_path = base

    # sets have another order in every process, and equal adapters should have equal files
    for setting in (*_NAMES_OF_MODULES, "modules_to_save"):
        names = vars(config).get(setting)
        if isinstance(names, set):
            setattr(config, setting, sorted(names))

    # a clone each: safetensors refuses tensors that share memory
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}

    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(str(directory))


def read_config(directory: Path, body: str | None = None) -> PeftConfig:
    """Read `adapter_config.json`.

    Args:
        directory: The folder of the adapter.
        body: For a model of another class over the same body, the prefix of the body's names, which
            is then removed from names of modules.

    Returns:
        The configuration, without the name of a base model.

    Raises:
        HubError: If the file is missing or cannot be read.
    """
    rule = f"An adapter must have a file `{CONFIG}` of PEFT."
    if not (directory / CONFIG).is_file():
        raise HubError(f"{rule} Found none in {directory}. Download or save the model again.")

    try:
        config = PeftConfig.from_pretrained(str(directory))
    except Exception as error:
        # any JSON may be in a downloaded file, and each method checks its own settings
        raise HubError(
            f"{rule} Found in {directory} one that cannot be read: {type(error).__name__}:"
            f" {str(error)[:LONGEST]}."
            " Download or save the model again, or install the version of peft that wrote it."
        ) from error

    # where the adapter was trained does not matter, and may be a folder of another machine
    config.base_model_name_or_path = None
    if body:
        _remove_prefix(config, f"{body}.")

    return config


def check_same_config(own: PeftConfig, directory: Path, body: str | None) -> None:
    """Refuse an adapter of the right shapes that means something else, such as another scaling.

    Args:
        own: The configuration of the adapter in the model.
        directory: The folder of the adapter to read.
        body: As for `read_config`.

    Raises:
        HubError: If the two differ in a setting that matters.
    """
    here, saved = own.to_dict(), read_config(directory, body).to_dict()

    # of both: a version of PEFT may lack a setting that another has
    compared = sorted((here.keys() | saved.keys()) - _NOT_COMPARED)
    differences = [
        f"{name}={shown(saved.get(name))}, not {shown(here.get(name))}"
        for name in compared
        if _plain(here.get(name)) != _plain(saved.get(name))
    ]
    if differences:
        raise HubError(
            "All languages must have adapters of the same configuration. Found in"
            f" {directory / CONFIG}: {'; '.join(differences)}. Train the adapter again with the"
            " configuration of the others."
        )


def check_initialisation(config: PeftConfig) -> None:
    """Refuse an initialisation that changes the base model, which all languages share.

    Raises:
        ConfigurationError: If `init_lora_weights` names one.
    """
    # only LoRA and its relatives have it
    method = vars(config).get("init_lora_weights")
    if isinstance(method, str) and method.lower().startswith(_CHANGES_THE_BASE):
        raise ConfigurationError(
            "A new adapter must leave the base model as it is, because all languages share it."
            f" Found `init_lora_weights={method!r}`, which changes it. Set for example"
            " `init_lora_weights=True`."
        )


def _remove_prefix(config: PeftConfig, prefix: str) -> None:
    """Remove a prefix from the names of modules in a configuration."""
    for setting in _NAMES_OF_MODULES:
        names = vars(config).get(setting)
        if isinstance(names, (list, set)):
            setattr(config, setting, type(names)(name.removeprefix(prefix) for name in names))


def shown(value: object) -> str:
    """A setting in a message, of which a file may hold megabytes."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _plain(value: object) -> object:
    """A setting as JSON has it: sets come back as lists, in any order."""
    if isinstance(value, (set, frozenset, list, tuple)):
        return sorted(map(str, value))
    return value
