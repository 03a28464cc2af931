"""Gradient checkpointing that recomputes each activation in the language of its forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_meta_adapters.backends.abilities import KeepsContext
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling._router import Router


def enable_checkpointing(
    router: Router, arguments: Mapping[str, object] | None, options: Mapping[str, object]
) -> None:
    """Switch gradient checkpointing on in the model of a router.

    Args:
        router: The router, whose language is restored for each recomputation.
        arguments: Arguments of `torch.utils.checkpoint.checkpoint`.
        options: Further arguments of the model's own method.

    Raises:
        ConfigurationError: If the arguments ask for reentrant checkpointing, which has no contexts.
    """
    settings: dict[str, object] = {"use_reentrant": False, **(arguments or {})}
    if settings["use_reentrant"]:
        raise ConfigurationError(
            "Gradient checkpointing must not be reentrant, because that would recompute in the"
            f" language of the last forward pass. Found {settings}. Use"
            " `gradient_checkpointing_kwargs={'use_reentrant': False}`."
        )

    settings["context_fn"] = router.checkpoint_contexts
    if isinstance(router.backend, KeepsContext):
        # replaces `context_fn`: which adapter runs is part of the state that such a library keeps
        router.backend.enable_checkpointing(settings, **options)
        return

    # the name in newer versions of transformers, which deprecate the other
    base: Any = router.backend.base
    enable = getattr(base, "activation_checkpointing_enable", None)
    if enable is None:
        enable = base.gradient_checkpointing_enable
    enable(settings, **options)
