"""The safetensors file of masks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_meta_adapters.errors import HubError

if TYPE_CHECKING:
    import os

__all__ = ["read_masks", "write_masks"]

_FORMAT = "hf_meta_adapters.language_masks.1"


def write_masks(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Write masks and what is to be known about them as one safetensors file.

    Args:
        path: The file.
        tensors: Name → mask.
        about: Anything JSON.
    """
    save_file(dict(tensors), path, metadata={"format": _FORMAT, "about": json.dumps(about)})


def read_masks(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_masks` wrote.

    Args:
        path: The file.

    Returns:
        The masks, and what is known about them.

    Raises:
        HubError: If the file is missing, damaged or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") == _FORMAT:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                return tensors, json.loads(metadata["about"])
    except (OSError, SafetensorError) as error:
        raise HubError(
            f"Masks are read from a safetensors file. Found that {path} is none: {error}. Give the"
            " path that was given to `LanguageMasks.save`."
        ) from error
    raise HubError(
        "Masks are read from a file that `LanguageMasks.save` wrote. Found the format"
        f" {metadata.get('format')!r} in {path}, not {_FORMAT!r}. Save the masks again with this"
        " version."
    )
