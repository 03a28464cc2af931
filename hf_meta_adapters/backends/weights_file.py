"""The weights of one adapter in a safetensors file, compared with a model before they are used."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from hf_meta_adapters.errors import HubError

WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_START = "base_model.model."
"""What PEFT puts before the names of the base model."""
_SHOWN = 20


def read_weights(
    directory: Path,
    expected: dict[str, Tensor],
    body: str | None = None,
    *,
    ignored: Collection[str] = (),
) -> dict[str, Tensor]:
    """Read an adapter under the names and with the shapes that a model expects.

    Args:
        directory: The folder of the adapter, which must hold `adapter_model.safetensors`.
        expected: The adapter in the model, under the names of a file.
        body: The prefix of the body's names in a model with a head, if the model is of another
            class over the same body than the saved one; `None` if the class is the same.
        ignored: Names that may be in the file and are no part of the adapter.

    Returns:
        name → tensor, for the names of `expected`.

    Raises:
        HubError: If the safetensors file is missing, is damaged or does not fit; the message lists
            all differences at once.
    """
    tensors = read_tensors(directory)
    foreign = set(ignored) - expected.keys()
    tensors = {name: tensor for name, tensor in tensors.items() if name not in foreign}
    if body is not None:
        tensors = _for_body(expected, tensors, body)

    check_fit(directory / WEIGHTS, expected, tensors)
    return tensors


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
        HubError: If the safetensors file is missing or damaged.
    """
    path = directory / weights
    if not path.is_file():
        raise HubError(_absent(directory, weights, pickle))

    try:
        # no pickle, so that reading runs no code
        return load_file(path)
    except Exception as error:
        # besides SafetensorError: an AttributeError of a type that torch lacks, say
        raise HubError(
            f"An adapter file must be in safetensors format. Found {path} damaged: {error}."
            " Download or save it again."
        ) from error


def check_fit(path: Path, expected: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Refuse tensors of a file with other names, shapes or kinds of numbers than in the model."""
    if lines := _differences(expected, tensors):
        raise HubError(
            f"The adapter must fit the model. Found in {path}: {lines} Load it into the model that"
            " it was trained with, or create the adapter anew."
        )


def _differences(expected: dict[str, Tensor], tensors: dict[str, Tensor]) -> str:
    """What is missing, unexpected, of another shape or kind, in one line; empty if all fits."""
    lines = [f"missing: {name}" for name in expected if name not in tensors]
    lines += [f"not part of the adapter: {name}" for name in tensors if name not in expected]
    for name, tensor in expected.items():
        if name in tensors and tensors[name].shape != tensor.shape:
            shapes = tuple(tensors[name].shape), tuple(tensor.shape)
            lines.append(f"{name}: shape {shapes[0]} in the file, {shapes[1]} in the model")

        # float16 is read into float32, but a cast from int8 or complex64 would change the meaning
        elif name in tensors and _kind(tensors[name]) != _kind(tensor):
            lines.append(f"{name}: {tensors[name].dtype} in the file, {tensor.dtype} in the model")

    if not lines:
        return ""

    # a file of another architecture differs in every name
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"and {len(lines) - _SHOWN} more"]

    return "; ".join(lines) + "."


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    """Whether a tensor has floating-point numbers, and whether complex ones."""
    return tensor.is_floating_point(), tensor.is_complex()


def _absent(directory: Path, weights: str, pickle: str) -> str:
    """What to say if the safetensors file is missing."""
    rule = f"An adapter must be in a file `{weights}`."
    if (directory / pickle).is_file():
        return (
            f"{rule} Found `{pickle}` in {directory}, a pickle, which can run code when it is read."
            " If you trust it, convert it:"
            f' `safetensors.torch.save_file(torch.load("{pickle}", weights_only=True),'
            f' "{weights}")`.'
        )

    what = "no such folder"
    if directory.is_dir():
        what = "no such file"

    return (
        f"{rule} Found {what}: {directory}. Download or save the model again, or leave the language"
        " out."
    )


def _for_body(
    expected: dict[str, Tensor], saved: dict[str, Tensor], body: str
) -> dict[str, Tensor]:
    """The saved adapter of a body under the names that it has in another model class.

    The names of a body have a prefix inside a model with a head (`roberta.encoder…`) and none
    without (`encoder…`). What the method put into the saved head is left out, and what it put into
    the present head stays.
    """
    prefix = f"{_START}{body}."

    def in_head(names: Iterable[str]) -> set[str]:
        outside = {name for name in names if not name.startswith(prefix)}

        # without a single name inside the body's prefix, the model is a body without a head
        is_body = len(outside) == len(set(names))
        return set() if is_body else outside

    def in_body(name: str) -> str:
        return name.removeprefix(prefix).removeprefix(_START)

    expected_head, saved_head = in_head(expected), in_head(saved)
    names = {in_body(name): name for name in expected if name not in expected_head}

    # a name without a counterpart is kept, so that `check_fit` refuses it
    moved = {
        names.get(in_body(name), name): tensor
        for name, tensor in saved.items()
        if name not in saved_head
    }

    # the head is "read" from the model itself, so that it does not change
    return {name: expected[name] for name in expected_head} | moved
