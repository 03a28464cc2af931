"""The command that a recipe writes into its results."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from hf_meta_adapters.bundled.folders import recipes_folder

__all__ = ["written_command"]


def written_command() -> str:
    """Return the command that would start this process again, on any machine.

    A bundled recipe or configuration is named, wherever the package is installed. Options of the
    launcher are left out.

    Returns:
        The command.

    Example:
        >>> from unittest.mock import patch
        >>> recipe = str(recipes_folder() / "diagnose.py")
        >>> with patch("sys.argv", [recipe, "outputs/model", "my texts"]):
        ...     written_command()
        "hf-meta-adapters run diagnose outputs/model 'my texts'"
    """
    recipe, *words = sys.argv
    configs = recipes_folder() / "configs"

    named = []
    for word in words:
        path = Path(word)
        named.append(path.stem if path.parent == configs else word)

    path = Path(recipe).resolve()
    if path.parent == recipes_folder():
        return shlex.join(["hf-meta-adapters", "run", path.stem, *named])

    return shlex.join(["hf-meta-adapters", "run", recipe, *named])
