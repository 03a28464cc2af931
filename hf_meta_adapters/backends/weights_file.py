"""The weights of one adapter in a safetensors file, compared with what a model expects before they are used."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hf_meta_adapters.errors import HubError

WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_START = "base_model.model."
_SHOWN = 20


def read_weights(
    directory: Path, expected: dict[str, Tensor], body: str | None = None
) -> dict[str, Tensor]:
    """Read an adapter, under the names and with the shapes that a model expects.

    Args:
        directory: The folder of the adapter.
        expected: The adapter in the model, under the names of a file.
        body: The prefix of the body's names in a model with a head, if the model is of another
            class over the same body; `None` if it is of the class that was saved.

    Returns:
        name → tensor, for the names of `expected`.

    Raises:
        HubError: If there is no safetensors file, or a damaged one, or one that does not fit; the
            message lists all differences at once.
    """
    found = read_tensors(directory)
    if body is not None:
        found = _for_body(expected, found, body)
    check_fit(directory / WEIGHTS, expected, found)
    return found


def read_tensors(
    directory: Path, weights: str = WEIGHTS, pickle: str = _PICKLE
) -> dict[str, Tensor]:
    """Read the tensors of an adapter as they are.

    Args:
        directory: The folder of the adapter.
        weights: The name of the safetensors file.
        pickle: The name of the pickle that the library may have written instead, which is refused.

    Returns:
        name → tensor.

    Raises:
        HubError: If there is no safetensors file, or a damaged one.
    """
    path = directory / weights
    if not path.is_file():
        raise HubError(_absent(directory, weights, pickle))
    try:
        return load_file(path)
    except SafetensorError as error:
        raise HubError(
            f"An adapter file must be in safetensors format. Found {path} damaged: {error}."
            " Download or save it again."
        ) from error


def check_fit(path: Path, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Refuse the tensors of a file that have other names or shapes than those in the model."""
    if lines := differences(expected, found):
        raise HubError(
            f"The adapter must fit the model. Found in {path}: {lines} Load it into the model that"
            " it was trained with, or create the adapter anew."
        )


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


def _absent(directory: Path, weights: str, pickle: str) -> str:
    rule = f"An adapter must be in a file `{weights}`."
    if (directory / pickle).is_file():
        return (
            f"{rule} Found `{pickle}` in {directory}, a pickle, which can run code when it is read."
            " If you trust it, "
            f'convert it: `safetensors.torch.save_file(torch.load("{pickle}", weights_only=True),'
            f' "{weights}")`.'
        )
    what = "no such file" if directory.is_dir() else "no such folder"
    return (
        f"{rule} Found {what}: {directory}. Download or save the model again, or leave the language"
        " out."
    )


def _for_body(
    expected: dict[str, Tensor], found: dict[str, Tensor], body: str
) -> dict[str, Tensor]:
    """The adapter of a body under the names that it has in another model class.

    A body has its names with a prefix inside a model with a head (`roberta.encoder…`) and without
    one by itself (`encoder…`). What a method has put into the old head is left out, and what it has
    put into the new one is kept.
    """
    start = f"{_START}{body}."

    def head(names: Iterable[str]) -> set[str]:
        inside = {name for name in names if name.startswith(start)}
        return set(names) - inside if inside else set()

    def relative(name: str) -> str:
        return name.removeprefix(start).removeprefix(_START)

    new, old = head(expected), head(found)
    names = {relative(name): name for name in expected if name not in new}
    moved = {
        names.get(relative(name), name): tensor for name, tensor in found.items() if name not in old
    }
    return {name: expected[name] for name in new} | moved
