"""`hf-meta-adapters cp`: a copy of a bundled file, to be changed."""

from __future__ import annotations

import shutil
from pathlib import Path

from hf_meta_adapters.bundled.folders import VERSES, verses_folder
from hf_meta_adapters.cli.catalogue import bundled_configs, bundled_launchers, bundled_recipes
from hf_meta_adapters.cli.nearest import did_you_mean
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["copy_bundled"]


def copy_bundled(name: str, destination: str | None = None, *, force: bool = False) -> Path:
    """Copy a recipe, a configuration, or the verses.

    Args:
        name: The name of a recipe or configuration. Where both have it, the recipe is meant; with
            its ending, as in `pretrain_mlm.yaml`, a name is that of one file. `"verses"` is the
            folder of the bundled verses.
        destination: A file, or a folder that exists; default the current folder.
        force: Whether to overwrite a file that exists.

    Returns:
        The copy.

    Raises:
        ConfigurationError: If there is no such file, or the copy would overwrite one.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     copy_bundled("wikiann", folder).name
        'wikiann.yaml'
    """
    source = _source(name)

    target = Path(destination or ".")
    if target.is_dir():
        # The folder of the verses is called `data` where it is kept.
        target = target / (VERSES if name == VERSES else source.name)

    if target.exists() and not force:
        raise ConfigurationError(
            f"`cp` must not overwrite what exists. Found {target}. Name another file, or pass"
            " --force."
        )

    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        leave_out = shutil.ignore_patterns("__pycache__", "*.py")
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=leave_out)
    else:
        shutil.copyfile(source, target)

    return target


def _source(name: str) -> Path:
    if name == VERSES:
        return verses_folder()

    entries = [*bundled_recipes(), *bundled_configs(), *bundled_launchers()]
    for entry in entries:
        if name in (entry.name, entry.path.name):
            return entry.path

    names = [entry.name for entry in entries]
    parts = [
        "What is copied must be bundled.",
        f"Found {name!r}.",
        did_you_mean(Path(name).stem, [*names, VERSES]),
        "`hf-meta-adapters ls` lists what is bundled.",
    ]
    raise ConfigurationError(" ".join(filter(None, parts)))
