"""The base under a family: by which name it can be loaded again, and where its body is."""

from __future__ import annotations

import re
from pathlib import Path

import transformers
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from torch import nn

_REPOSITORY = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")


def base_reference(base: nn.Module) -> tuple[str, str]:
    """The name and the commit by which a base can be loaded again; "" and "" if it must be saved.

    A model made in memory has no name, and a folder that is gone cannot be loaded again. A model of
    another class than its checkpoint has a head that the checkpoint lacks.
    """
    config = getattr(base, "config", None)
    if not isinstance(config, transformers.PretrainedConfig):
        return "", ""

    name = config.name_or_path
    if not name or type(base).__name__ not in (config.architectures or ()):
        return "", ""

    is_folder = Path(name).is_dir()
    if not is_folder and not is_repo_id(name):
        return "", ""

    # transformers 4 records the commit that it loaded, transformers 5 does not.
    commit = getattr(config, "_commit_hash", None)
    if not commit and not is_folder:
        commit = _only_snapshot(name)

    return name, commit or ""


def is_repo_id(name: str) -> bool:
    """Whether a repository of the Hub can have a name; no absolute or long path can be one."""
    return _REPOSITORY.fullmatch(name) is not None


def body_name(model: nn.Module) -> str:
    """The name of the single transformers model inside a model with a head; "" without one."""
    names = [
        name
        for name, child in model.named_children()
        if isinstance(child, transformers.PreTrainedModel)
    ]
    if len(names) != 1:
        return ""

    return names[0]


def _only_snapshot(name: str) -> str:
    """The commit of a repository of which the cache holds a single one, else ""."""
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    commits = [path.parent.name for path in (folder / "snapshots").glob("*/config.json")]

    # Of several, nothing tells which one was loaded.
    if len(commits) != 1:
        return ""
    return commits[0]
