"""What a base model must be before languages are added to it by PEFT."""

from __future__ import annotations

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from hf_meta_adapters.errors import UnsupportedModelError


def check_bare(model: object) -> None:
    """Refuse what is not a model without adapters of PEFT."""
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(
            f"The base model must be a module. Found {model!r} of type `{type(model).__name__}`."
            " Load it first, for example with `AutoModelForMaskedLM.from_pretrained(...)`."
        )

    if any(isinstance(part, (BaseTunerLayer, PeftModel)) for part in model.modules()):
        raise UnsupportedModelError(
            "The base model must have no adapters of PEFT yet. Found some in"
            f" `{type(model).__name__}`. Call `model.merge_and_unload()` on a PeftModel, or"
            " `add_language` on a model with languages."
        )
