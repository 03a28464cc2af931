"""What limits an adapter's configuration to some layers of a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hf_meta_adapters.errors import ConfigurationError

__all__ = ["limits_to_layers"]


def limits_to_layers(config: Any, layers: Sequence[str], numbers: Sequence[int]) -> dict[str, Any]:
    """Return the fields of a configuration that put its adapter into some layers only, with their values.

    Args:
        config: The configuration, told by the fields that it has.
        layers: Names of the layers, as of `layer_of`.
        numbers: Their numbers, for a configuration that knows layers by number only.

    Returns:
        Field → value.

    Raises:
        ConfigurationError: If it has no field for that, or one that cannot be limited.
    """
    inside = rf"(?:.*\.)?(?:{'|'.join(re.escape(layer) for layer in layers)})(?:\..*)?"
    modules = getattr(config, "modules", None)
    if hasattr(config, "exclude_modules"):
        # Names, unlike `layers_to_transform`, tell the stacks of an encoder-decoder apart, and
        # serve "all-linear" too.
        outside = rf"(?!{inside}$).*"
        limits: dict[str, Any] = {"exclude_modules": _either(config.exclude_modules, outside)}
        return limits | (
            {"layers_to_transform": None} if hasattr(config, "layers_to_transform") else {}
        )
    if hasattr(config, "layers_to_transform"):
        return {"layers_to_transform": list(numbers)}
    if isinstance(modules, list):
        return {
            "modules": [rf"(?={inside}$)(?:(?:.*\.)?{re.escape(name)}|{name})" for name in modules]
        }
    kind = "" if modules is None else f" of the kind {modules!r}"
    raise ConfigurationError(
        "A plan needs a configuration that can be limited to layers, by `exclude_modules`,"
        f" `layers_to_transform` or a list of `modules`. Found `{type(config).__name__}`{kind}."
        " Write for example `plan.configure(BottleneckConfig())` or"
        ' `plan.configure(ModuleCopyConfig(["LayerNorm"]))`.'
    )


def _either(excluded: str | Sequence[str] | None, outside: str) -> str:
    """Return a regular expression for what the user excludes already, and what is outside of the layers."""
    if not excluded:
        return outside
    if not isinstance(excluded, str):
        excluded = rf"(?:.*\.)?(?:{'|'.join(map(re.escape, sorted(excluded)))})"
    return f"(?:{excluded})|(?:{outside})"
