"""Gradient surgery in a Trainer: how it is made, and its state in a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_meta_adapters.errors import CheckpointError, ConfigurationError
from hf_meta_adapters.meta.surgery import Surgery
from hf_meta_adapters.meta.weightings import METHODS
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

SURGERY = "surgery.safetensors"


def surgery_of(model: LanguageAdapterModel, args: MetaAdapterTrainingArguments) -> Surgery | None:
    """What weighs the languages' gradients in the update of θ; `None` where nothing does.

    Args:
        model: The model.
        args: The arguments.

    Returns:
        The surgery, at its beginning.

    Raises:
        ConfigurationError: If the model has no θ, or the extra is not installed.
    """
    if args.shared_update not in METHODS:
        return None

    if not model.shared_parameters():
        raise ConfigurationError(
            f'`shared_update="{args.shared_update}"` says how the shared weights θ are updated.'
            ' Found a model without any that is trained (`shared="none"`). Leave it out, or make'
            ' part of the model trainable (`shared="all"`, or a PeftConfig such as LoraConfig()).'
        )
    return Surgery(
        str(args.shared_update),
        gradients=args.surgery_gradients,  # type: ignore[arg-type]  # checked by the arguments
        groups=args.shared_update_groups,  # type: ignore[arg-type]
        seed=args.seed,
    )


def write_surgery(folder: Path, surgery: Surgery) -> None:
    """Write the state of a surgery, which all processes have alike, to a checkpoint."""
    tensors, rest = surgery.state()
    save_file(tensors, str(folder / SURGERY), {"state": json.dumps(rest)})


def check_surgery_file(path: Path) -> None:
    """Check that a file holds the state of a surgery.

    Args:
        path: The file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it holds something else.
        RuntimeError: Likewise, from safetensors.
    """
    tensors, rest = _content(path)
    Surgery(str(rest["method"])).load_state(tensors, rest)


def read_surgery(folder: Path, surgery: Surgery) -> None:
    """Take over the state that a checkpoint has.

    Args:
        folder: The folder of the checkpoint.
        surgery: The surgery that takes it over.

    Raises:
        CheckpointError: If there is none, or one of another method.
    """
    path = folder / SURGERY
    try:
        surgery.load_state(*_content(path))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "A run with gradient surgery goes on from the inner products that it has measured."
            f" Found none that fit in {path}: {error}. Resume from an earlier checkpoint, or start"
            " a new run from its weights: `model.load_weights(...)`."
        ) from error


def _content(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    with safe_open(str(path), framework="pt") as file:
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
        return tensors, json.loads(file.metadata()["state"])
