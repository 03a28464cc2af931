"""The text model inside a model that has towers for images or sounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

__all__ = ["text_modules"]

_TEXT = "text_config"
_CONFIG = "_config"


def text_modules(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Return the modules that lie in the text model of a model with several towers.

    A model has towers where its configuration, or one inside of it, has a `text_config`: Gemma 3,
    LLaVA, Qwen2-VL, Qwen2-Audio, CLIP. In text alone, neither the tower of images or sounds nor
    what joins it to the text model ever runs.

    Args:
        model: The model.
        names: Names of modules in it.

    Returns:
        Those in the text model, in the given order; all of them if the model has no towers.

    Example:
        >>> text_modules(nn.Sequential(nn.Linear(2, 2)), ["0"])
        ['0']
    """
    kept = list(names)

    for config in _with_text(getattr(model, "config", None)):
        others = {type(part) for name, part in _parts(config) if name != _TEXT}
        text = {type(getattr(config, _TEXT))}

        # By class: transformers copies the configuration of a part when it makes the part.
        for owner in _prefixes(model, {type(config)}):
            inside = [prefix for prefix in _prefixes(model, text) if prefix.startswith(owner)]
            towers = tuple(_prefixes(model, others - text))
            kept = [
                name
                for name in kept
                if not name.startswith(owner) or _is_text(name, tuple(inside), towers)
            ]

    # a model without layers in its text model has nothing else to adapt
    return kept or list(names)


def _is_text(name: str, inside: tuple[str, ...], towers: tuple[str, ...]) -> bool:
    # Where text has no module of its own, its layers lie beside the towers.
    return name.startswith(inside) if inside else not name.startswith(towers)


def _with_text(config: object) -> Iterator[object]:
    """Yield the configurations that have one for text among others, the outermost first."""
    parts = _parts(config)
    if len(parts) > 1 and _TEXT in dict(parts):
        yield config

    for _, part in parts:
        yield from _with_text(part)


def _parts(config: object) -> list[tuple[str, object]]:
    """The configurations inside of a configuration."""
    return [
        (name, part)
        for name, part in getattr(config, "__dict__", {}).items()
        if hasattr(part, "model_type")
        and (name.endswith(_CONFIG) or name in ("encoder", "decoder"))
    ]


def _prefixes(model: nn.Module, kinds: set[type]) -> list[str]:
    """The beginnings of the names inside of the outermost modules with such a configuration."""
    found: list[str] = []
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if type(getattr(module, "config", None)) in kinds and not prefix.startswith(tuple(found)):
            found.append(prefix)

    return found
