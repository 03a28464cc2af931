"""`hf-meta-adapters ls`: what travels with the package, a line each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hf_meta_adapters.cli.catalogue import (
    Entry,
    bundled_configs,
    bundled_launchers,
    bundled_recipes,
)

__all__ = ["listing"]

WIDTH = 35


def listing() -> str:
    """Return all bundled recipes with their configurations, and the launcher's configurations.

    Returns:
        The text, a line for each.

    Example:
        >>> "--config wikiann" in listing()
        True
    """
    recipes = bundled_recipes()
    parts = [
        "Recipes: hf-meta-adapters run NAME [--config CONFIG] [SETTING=VALUE …]",
        *_recipes(entry for entry in recipes if not entry.is_measurement),
        "",
        "Launchers: hf-meta-adapters run --config_file LAUNCHER NAME …",
        *(_line(entry.name, entry.about, indent=2) for entry in bundled_launchers()),
        "",
        "Texts: data=NAME",
        _line("verses", "Verses in English, French, Russian and Swahili.", indent=2),
        "",
        "Measurements behind the documentation, run as recipes are:",
        *_recipes(entry for entry in recipes if entry.is_measurement),
    ]
    return "\n".join(parts)


def _recipes(recipes: Iterable[Entry]) -> Iterator[str]:
    configs = bundled_configs()
    for recipe in recipes:
        yield _line(recipe.name, recipe.about, indent=2)
        for config in configs:
            if config.recipe == recipe.name:
                yield _line(f"--config {config.name}", config.about, indent=4)


def _line(name: str, about: str, *, indent: int) -> str:
    return f"{' ' * indent}{name}".ljust(WIDTH) + f" {about}"
