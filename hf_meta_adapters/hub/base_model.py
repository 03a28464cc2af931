"""The base under a family: by which name it can be loaded again, and where its body is."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import transformers
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from torch import Tensor, nn

from hf_meta_adapters.hub._same_base import is_same_base

_REPOSITORY = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")

Rows = Callable[[], Mapping[int, Collection[int]]]
"""Tells, of the address of the data of an embedding, rows that are saved apart from it."""


class BaseReference:
    """The name by which a base can be loaded again, as long as the base is what that name loads.

    A model made in memory has no name. A model of another class than its checkpoint has a head that
    the checkpoint lacks. Neither does a checkpoint have what was changed after loading: rows for
    new tokens, weights from elsewhere, settings.

    Args:
        name: A folder or a repository on the Hub; "" if there is none.
        revision: The commit of the repository; "" if it is unknown.
        rows: Tells which rows of embeddings are saved apart from the base; default none.

    Attributes:
        name: The name.
        revision: The commit.
        rows: What tells the rows: the address of the data of an embedding → its rows.
    """

    def __init__(self, name: str = "", revision: str = "", rows: Rows = dict) -> None:
        self.name = name
        self.revision = revision
        self.rows = rows
        # what was compared last, and the commit that was the same; a checkpoint is saved often
        self._compared: list[tuple[object, ...]] = []
        self._found: str | None = None

    @classmethod
    def of(cls, base: nn.Module, rows: Rows = dict) -> BaseReference:
        """The name that a base was loaded by; `rows` as for the class."""
        config = getattr(base, "config", None)
        if not isinstance(config, transformers.PretrainedConfig):
            return cls()

        name, classes = config.name_or_path, config.architectures
        # a file may hold anything there
        if not name or not isinstance(classes, list) or type(base).__name__ not in classes:
            return cls()

        # transformers 4 records the commit that it loaded, transformers 5 does not.
        return cls(name, getattr(config, "_commit_hash", None) or "", rows)

    def of_present(self, base: nn.Module, state: Mapping[str, Tensor]) -> tuple[str, str]:
        """The name and the commit that load this very base; "" and "" if it must be saved.

        Args:
            base: The base.
            state: Its tensors under the names of its own checkpoint, without adapters.
        """
        if not self.name or not isinstance(base, transformers.PreTrainedModel):
            return "", ""

        # in-place changes count versions up, and others move a tensor
        present: list[tuple[object, ...]] = [
            (name, tensor.data_ptr(), tensor._version, tensor.shape, tensor.dtype)
            for name, tensor in state.items()
        ]
        present.append((base.config.to_json_string(use_diff=False),))
        if present != self._compared:
            self._compared, self._found = present, self._compare(base, state)

        if self._found is None:
            return "", ""
        return self.name, self._found

    def _compare(
        self, base: transformers.PreTrainedModel, state: Mapping[str, Tensor]
    ) -> str | None:
        """The commit whose files are the same, "" for a folder; `None` if there is none."""
        if Path(self.name).is_dir():
            is_same = is_same_base(base, state, Path(self.name), self.rows())
            return self.revision if is_same else None

        for folder in _snapshots(self.name, self.revision):
            if is_same_base(base, state, folder, self.rows()):
                return folder.name

        return None


def base_reference(base: nn.Module) -> tuple[str, str]:
    """The name and the commit that a base was loaded by; "" and "" if it has none."""
    reference = BaseReference.of(base)
    return reference.name, reference.revision


def is_repo_id(name: str) -> bool:
    """Whether a name has the form of a repository on the Hub; folders mostly have another."""
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


def _snapshots(name: str, revision: str) -> list[Path]:
    """The folders in which the cache holds a repository: of a commit, or all if it is unknown."""
    if not is_repo_id(name):
        return []

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    found = sorted(path.parent for path in (folder / "snapshots").glob("*/config.json"))
    return [path for path in found if revision in ("", path.name)]
