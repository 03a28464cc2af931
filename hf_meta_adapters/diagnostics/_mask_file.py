"""The safetensors file of masks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import HubError
from hf_meta_adapters.results.files import replacing

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

__all__ = ["MaskDescription", "read_masks", "write_masks"]

_FORMAT = "hf_meta_adapters.language_masks.1"


class MaskDescription(TypedDict):
    """What a file of masks says besides the masks; the fields of `LanguageMasks`, as JSON."""

    languages: Sequence[Language]
    seeds: Sequence[int]
    granularity: str
    shapes: Mapping[str, Sequence[int]]
    confidence: Mapping[Language, Mapping[str, Mapping[str, float]]]
    """Language → seed, a string as all keys of JSON → name of a weight → confidence."""


def write_masks(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], description: MaskDescription
) -> None:
    """Write masks and their description as one safetensors file.

    Args:
        path: The file.
        tensors: Name → mask.
        description: What they are.
    """
    # The metadata of safetensors are strings.
    metadata = {"format": _FORMAT, "about": json.dumps(description)}
    with replacing(path) as new:
        save_file(dict(tensors), new, metadata=metadata)


def read_masks(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], MaskDescription]:
    """Read what `write_masks` wrote.

    Args:
        path: The file.

    Returns:
        The masks, and their description.

    Raises:
        HubError: If the file is missing, damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") == _FORMAT:
                # A handle of safetensors has `keys()` but is no mapping.
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                description: MaskDescription = json.loads(metadata["about"])
                return tensors, description
    except (OSError, SafetensorError) as error:
        raise HubError(
            f"Masks are read from a safetensors file. Found that {path} is not one: {error}. Pass"
            " the path that was passed to `LanguageMasks.save`."
        ) from error

    raise HubError(
        "Masks are read from a file that `LanguageMasks.save` wrote. Found the format"
        f" {metadata.get('format')!r} in {path}, not {_FORMAT!r}. Save the masks again with this"
        " version."
    )
