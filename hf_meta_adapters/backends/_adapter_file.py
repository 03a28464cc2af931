"""The weights of one adapter in a safetensors file, compared with what a model expects before they are used."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hf_meta_adapters.errors import HubError

WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_START = "base_model.model."
_SHOWN = 20


def read_weights(directory: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Read an adapter, under the names and with the shapes that a model expects.

    Args:
        directory: The folder of the adapter.
        expected: The adapter in the model, under the names of a file.

    Returns:
        name → tensor, for the names of `expected`.

    Raises:
        HubError: If there is no safetensors file, or a damaged one, or one that does not fit; the message lists all
            differences at once.
    """
    path = directory / WEIGHTS
    if not path.is_file():
        raise HubError(_absent(directory))
    try:
        found = _renamed(expected, load_file(path))
    except SafetensorError as error:
        raise HubError(
            f"An adapter file must be in safetensors format. Found {path} damaged: {error}. Download or save it again."
        ) from error
    if lines := differences(expected, found):
        raise HubError(
            f"The adapter must fit the model. Found in {path}: {lines} Load it into the model that it was trained "
            "with, or create the adapter anew."
        )
    return found


def differences(expected: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    """What is missing, unexpected or of another shape, in one line; empty if there is nothing."""
    lines = [f"missing: {name}" for name in expected if name not in found]
    lines += [f"not part of the adapter: {name}" for name in found if name not in expected]
    lines += [
        f"{name}: shape {tuple(found[name].shape)} in the file, {tuple(tensor.shape)} in the model"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "; ".join(lines[:_SHOWN] + more) + "." if lines else ""


def _absent(directory: Path) -> str:
    rule = f"An adapter must be in a file `{WEIGHTS}`."
    if (directory / _PICKLE).is_file():
        return (
            f"{rule} Found `{_PICKLE}` in {directory}, a pickle, which can run code when it is read. If you trust it, "
            f'convert it: `safetensors.torch.save_file(torch.load("{_PICKLE}", weights_only=True), "{WEIGHTS}")`.'
        )
    what = "no such file" if directory.is_dir() else "no such folder"
    return f"{rule} Found {what}: {directory}. Download or save the model again, or leave the language out."


def _renamed(expected: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adapter weights under the names of another model class over the same body.

    A body has its names with a prefix inside a model with a head (`roberta.encoder…`) and without one by itself
    (`encoder…`). Where the stored names differ from the expected ones by such a prefix alone, they are mapped.
    """
    if set(found) == set(expected) or len(found) != len(expected):
        return found
    first = next(iter(found)).removeprefix(_START)
    for name in expected:
        other = name.removeprefix(_START)
        if other.endswith(f".{first}"):
            added = other.removesuffix(first)
            moved = {f"{_START}{added}{key.removeprefix(_START)}": tensor for key, tensor in found.items()}
        elif first.endswith(f".{other}"):
            dropped = first.removesuffix(other)
            moved = {_START + key.removeprefix(_START).removeprefix(dropped): tensor for key, tensor in found.items()}
        else:
            continue
        if set(moved) == set(expected):
            return moved
    return found
