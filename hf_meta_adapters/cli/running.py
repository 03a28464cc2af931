"""`hf-meta-adapters run`: a recipe, checked first, under `accelerate launch`."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_meta_adapters.cli.catalogue import (
    bundled_recipes,
    find_config,
    find_launcher,
    find_recipe,
)
from hf_meta_adapters.cli.check_settings import check_settings
from hf_meta_adapters.cli.declared_options import Option, declared_options
from hf_meta_adapters.cli.given_settings import (
    Settings,
    as_options,
    given_settings,
    read_settings,
)
from hf_meta_adapters.cli.nearest import did_you_mean
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["Launch", "read_launch", "start"]

HELP = {"-h", "--help"}


@dataclass(frozen=True)
class Launch:
    """What is to be run.

    Attributes:
        recipe: The file of the recipe.
        arguments: The arguments of the recipe.
        launcher: The options of `accelerate launch`.
    """

    recipe: Path
    arguments: tuple[str, ...]
    launcher: tuple[str, ...]

    def command(self) -> list[str]:
        """The command line that runs it.

        A recipe that closes its process group is launched, since it may run in several processes.
        Every other one runs without the launcher, and so do those that start their processes
        themselves, and one that is only asked for its help.
        """
        program = [str(self.recipe), *self.arguments]
        launched = bool(self.launcher) or _can_be_launched(self.recipe)
        if not launched or HELP.intersection(self.arguments):
            return [sys.executable, *program]

        return [sys.executable, "-m", "hf_meta_adapters.cli.launching", *self.launcher, *program]


def read_launch(words: Sequence[str]) -> Launch:
    """Read and check the words after `run`: launcher's options, recipe, settings.

    Args:
        words: `[launcher's options …] NAME [settings …]`.

    Returns:
        What is to be run, with the paths of bundled files in place of their names.

    Raises:
        ConfigurationError: If there is no such recipe or configuration, or a setting is wrong.
    """
    place = _place_of_recipe(words)
    name = words[place]
    recipe = find_recipe(name)

    launcher = _with_path(words[:place], "config_file", find_launcher)
    bundled = [entry.path for entry in bundled_recipes()]
    if launcher and recipe in bundled and not _can_be_launched(recipe):
        raise ConfigurationError(
            f"The recipe `{name}` runs without a launcher. Found `{' '.join(launcher)}` before its"
            " name. Leave that out; settings of the recipe come after its name."
        )

    options = declared_options(recipe)
    arguments = as_options(words[place + 1 :], options or ())

    if options is not None and not HELP.intersection(arguments):
        settings: Settings = {}
        path = None
        # A recipe with a parser of its own may mean something else by it.
        if options.get("config") == Option("config", is_field=False):
            arguments = _with_path(arguments, "config", find_config)
            config = _value(arguments, "config")
            if config is not None:
                path = Path(config)
                settings = read_settings(path)

        help_command = f"hf-meta-adapters run {name} --help"
        check_settings(options, arguments, settings, path, help_command=help_command)

    return Launch(recipe, tuple(arguments), tuple(launcher))


def start(command: Sequence[str]) -> int:
    """Run a command in place of this process, so that signals and the exit code are its own.

    Args:
        command: The command line.

    Returns:
        Its exit code, on systems that cannot replace a process.
    """
    sys.stdout.flush()
    sys.stderr.flush()

    if os.name != "nt":
        os.execv(command[0], list(command))  # noqa: S606

    return subprocess.call(command)  # noqa: S603


def _place_of_recipe(words: Sequence[str]) -> int:
    """Which of the words is the recipe: the first that names one, or else looks like a name."""
    names = {entry.name for entry in bundled_recipes()}
    for place, word in enumerate(words):
        if word in names or word.endswith(".py"):
            return place

    # A wrong name: one that is nearly right, or a word that cannot be the value of an option.
    candidates = [place for place, word in enumerate(words) if not word.startswith("-")]
    near = [place for place in candidates if did_you_mean(words[place], names)]
    apart = [place for place in candidates if place == 0 or not words[place - 1].startswith("--")]
    if not candidates:
        raise ConfigurationError(
            "`run` must be told what to run. Found no name of a recipe. Use for example"
            " `hf-meta-adapters run pretrain_mlm --config pretrain_mlm`; `hf-meta-adapters ls`"
            " lists all recipes."
        )

    return (near or apart or candidates)[0]


def _can_be_launched(recipe: Path) -> bool:
    tree = ast.parse(recipe.read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}

    # A grid starts its processes itself; each launched process would compute all of it.
    if "run_grid" in names | attributes:
        return False

    return bool({"closing_process_group", "destroy_process_group"} & (names | attributes))


def _value(words: Sequence[str], name: str) -> str | None:
    """The value of an option, written `--name value` or `--name=value`; the last one counts."""
    values = [one.values[0] for one in given_settings(words) if one.name == name and one.values]
    return values[-1] if values else None


def _with_path(words: Sequence[str], name: str, find: Callable[[str], Path]) -> list[str]:
    """The words, with the path of a file in place of its name."""
    option = f"--{name}"
    changed: list[str] = []

    for word in words:
        if changed and changed[-1] == option:
            changed.append(str(find(word)))
        elif word.startswith(f"{option}="):
            changed.append(f"{option}={find(word.partition('=')[2])}")
        else:
            changed.append(word)

    return changed
