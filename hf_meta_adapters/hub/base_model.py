"""The base under a family: by which name it can be loaded again, and where its body is."""

from __future__ import annotations

from pathlib import Path

import transformers
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from torch import nn


def base_reference(base: nn.Module) -> tuple[str, str]:
    """The name and the commit by which a base can be loaded again; "" and "" if it must be saved.

    A model made in memory has no name. A model of another class than its checkpoint has a head that
    the checkpoint lacks.
    """
    config = getattr(base, "config", None)
    if not isinstance(config, transformers.PretrainedConfig):
        return "", ""

    name, classes = config.name_or_path, config.architectures
    # a file may hold anything there
    if not name or not isinstance(classes, list) or type(base).__name__ not in classes:
        return "", ""

    # transformers 4 records the commit that it loaded, transformers 5 does not.
    commit = getattr(config, "_commit_hash", None)
    if not commit and not Path(name).is_dir():
        commit = _only_snapshot(name)

    return name, commit or ""


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
