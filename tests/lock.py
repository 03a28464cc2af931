"""Print what is installed as pins for pip: `tests/locked.txt` or `tests/locked-adapters.txt`.

`make lock` runs it in an environment of the newest releases that `pyproject.toml` allows, after the
tests have passed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions

from packaging.specifiers import SpecifierSet

# torch is pinned in the Makefile, whose user may want another build of it
LEFT_OUT = {"hf-meta-adapters", "torch", "pip", "setuptools", "wheel"}
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
HEADER = (
    "# Made by `make lock` with Python {version}: the releases that `{target}` was run with. Do not"
    " edit by hand."
)


def pin(distribution: Distribution) -> str:
    """The line of a distribution; Pythons for which the release does not exist get no pin."""
    line = f"{distribution.metadata['Name']}=={distribution.version}"
    supported = SpecifierSet(distribution.metadata.get("Requires-Python", ""))
    oldest = next(python for python in PYTHONS if f"{python}.99" in supported)
    return line if oldest == PYTHONS[0] else f'{line} ; python_version >= "{oldest}"'


def pins() -> Iterator[str]:
    """The lines of all distributions, by name."""
    installed = {
        re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower(): one for one in distributions()
    }
    return (pin(installed[name]) for name in sorted(installed) if name not in LEFT_OUT)


if __name__ == "__main__":
    print(HEADER.format(version=".".join(map(str, sys.version_info[:2])), target=sys.argv[1]))
    print(*pins(), sep="\n")
