"""The public names of a package, imported when they are asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec

__all__ = ["lazy_names"]


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return a package's `__getattr__`, which imports a name when it is first asked for.

    Subpackages are found as well, as if the package had imported them.

    Args:
        package: The name of the package.
        homes: Name → the module that defines it.

    Returns:
        The function, as PEP 562 defines it.

    Example:
        >>> find = lazy_names("json", {"loads": "json"})
        >>> find("loads")("[1]")
        [1]
    """

    def find(name: str) -> object:
        if name in homes:
            value = getattr(import_module(homes[name]), name)
        elif not name.startswith("_") and find_spec(f"{package}.{name}"):
            value = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")

        # From now on, Python finds the name without asking.
        vars(sys.modules[package])[name] = value
        return value

    return find
