"""How to limit an adapter's configuration to some layers of a model."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection, Sequence
from dataclasses import is_dataclass
from typing import cast

from hf_meta_adapters.anatomy.layers import layer_index, layer_of
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["limits_to_layers"]


def limits_to_layers(
    config: object, layers: Sequence[str], numbers: Sequence[int]
) -> dict[str, object]:
    """Return the fields of a configuration that put its adapter into some layers only.

    Args:
        config: The configuration, a dataclass, judged by the fields that it has.
        layers: Names of the layers, as `layer_of` gives them.
        numbers: Numbers of the layers, for a configuration that knows layers by number only.

    Returns:
        Field → value.

    Raises:
        ConfigurationError: If it has no such field, or one that cannot be limited.
    """
    fields: dict[str, object] = {}
    if is_dataclass(config):
        fields = vars(config)
    inside = rf"(?:.*\.)?(?:{_any_of(layers)})(?:\..*)?"

    # Names, unlike `layers_to_transform`, tell the stacks of an encoder-decoder apart, and work
    # with "all-linear" as well.
    if "exclude_modules" in fields:
        excluded = cast("str | Collection[str] | None", fields["exclude_modules"])
        limits: dict[str, object] = {"exclude_modules": _either(excluded, rf"(?!{inside}$).*")}
        if "layers_to_transform" in fields:
            limits["layers_to_transform"] = None
        return limits

    if "layers_to_transform" in fields:
        return {"layers_to_transform": list(numbers)}

    modules = fields.get("modules")
    if isinstance(modules, list):
        within = [name for name in modules if not _is_elsewhere(name, layers)]
        if not within:
            raise ConfigurationError(
                f"A plan of {list(layers)} needs `modules` of these layers. Found"
                f" {reprlib.repr(modules)}, all of other layers. Name what every layer has, such"
                ' as `ModuleCopyConfig(["LayerNorm"])`.'
            )

        # A module may be given by the end of its name or by a regular expression of the whole.
        patterns = [rf"(?:(?:.*\.)?{re.escape(name)}|{name})" for name in within]
        return {"modules": [rf"(?={inside}$){pattern}" for pattern in patterns]}

    kind = ""
    if modules is not None:
        kind = f" of the kind {modules!r}"
    raise ConfigurationError(
        "A plan needs a configuration that can be limited to layers, by `exclude_modules`,"
        f" `layers_to_transform` or a list of `modules`. Found `{type(config).__name__}`{kind}."
        " Use for example `plan.configure(BottleneckConfig())` or"
        ' `plan.configure(ModuleCopyConfig(["LayerNorm"]))`.'
    )


def _either(excluded: str | Collection[str] | None, outside: str) -> str:
    """Return a regular expression for what the user excludes and for what is outside the layers."""
    if not excluded:
        return outside

    if not isinstance(excluded, str):
        excluded = rf"(?:.*\.)?(?:{_any_of(sorted(excluded))})"
    return f"(?:{excluded})|(?:{outside})"


def _is_elsewhere(name: str, layers: Sequence[str]) -> bool:
    """Whether a name, not a regular expression, is of a numbered layer that is none of these."""
    layer = layer_of(name)
    if not re.fullmatch(r"[\w.]+", name) or layer_index(layer) is None:
        return False

    return not any(f".{each}".endswith(f".{layer}") for each in layers)


def _any_of(names: Sequence[str]) -> str:
    return "|".join(re.escape(name) for name in names)
