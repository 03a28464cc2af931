"""Whole or complex numbers in place of real weights, which a library may cast without a word."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from safetensors import safe_open

from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub._needed_files import shard_names

_REAL = ("F", "BF")
"""How the names begin that safetensors has for floating-point types."""


def check_number_types(
    folder: Path, model_class: type[transformers.PreTrainedModel] | None
) -> None:
    """Refuse shared weights of whole or complex numbers where the model has real ones.

    Args:
        folder: The folder of a saved model.
        model_class: The class that was saved; `None` if it is unknown, so that nothing is checked.

    Raises:
        HubError: If there are any; it names the tensors and their types.
    """
    suspects: dict[str, str] = {}
    for shard in shard_names(folder):
        with safe_open(folder / shard, framework="pt") as file:
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        suspects |= {name: kind for name, kind in types.items() if not kind.startswith(_REAL)}

    # Hardly any model has such tensors, so that the others need no second look.
    if not suspects or model_class is None:
        return

    config = model_class.config_class.from_pretrained(str(folder))
    if vars(config).get("quantization_config") is not None:
        # Its library packs weights into whole numbers.
        return

    with torch.device("meta"):
        state = model_class(config).state_dict()

    # A counter or a table of positions is whole in the model, too.
    wrong = [
        f"{name} of type {kind}"
        for name, kind in suspects.items()
        if name in state and state[name].is_floating_point()
    ]
    if wrong:
        raise HubError(
            "Shared weights must be floating-point numbers where those of the model are. Found in"
            f" {folder}: {', '.join(wrong[:3])} ({len(wrong)} in all). Download or save the"
            " model again."
        )
