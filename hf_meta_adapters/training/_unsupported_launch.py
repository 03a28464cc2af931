"""Ways of launching a run that the outer step cannot use: how they are refused, and DeepSpeed."""

from __future__ import annotations

import os
from dataclasses import dataclass

from hf_meta_adapters.errors import ConfigurationError

INSTEAD = (
    "Launch it with `--multi_gpu` (DDP), or with `--use_fsdp --fsdp_version 2` for models that do"
    " not fit."
)


@dataclass(frozen=True)
class Unsupported:
    """A way of spreading a run over devices, and why the outer step cannot use it."""

    name: str
    reason: str


DEEPSPEED = Unsupported(
    "DeepSpeed", "its engine owns the gradients, and takes those of one loss in each step"
)


def refusal(way: Unsupported) -> ConfigurationError:
    """The error for a run that was launched in an unsupported way."""
    return ConfigurationError(
        "The outer step needs gradients of several losses at several θ in each step. Found"
        f" {way.name}: {way.reason}. {INSTEAD}"
    )


def check_launch(deepspeed: object) -> None:
    """Refuse DeepSpeed before transformers tries to import it: it may not be installed.

    Args:
        deepspeed: The argument of that name.

    Raises:
        ConfigurationError: If DeepSpeed was requested.
    """
    is_launched = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    if deepspeed or is_launched:
        raise refusal(DEEPSPEED)
