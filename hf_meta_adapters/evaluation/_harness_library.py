"""lm-evaluation-harness, of the extra `eval`: its tasks, and one run of one of them."""

from __future__ import annotations

import copy
import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hf_meta_adapters._typing import JsonObject, Language
from hf_meta_adapters.anatomy.passes import device_of
from hf_meta_adapters.data.seeding import seeded
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation.harness_task import HarnessTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["find_tasks", "harness_library", "run_task"]

_SEED = 0
_SHOWN = 5


def harness_library(name: str = "lm_eval") -> ModuleType:
    """Import a module of lm-evaluation-harness.

    Raises:
        ConfigurationError: If it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "Tasks of lm-evaluation-harness need the package lm_eval. Found"
            f' `{error.name}` not installed. Run `pip install "hf-meta-adapters[eval]"`.'
        ) from error


def find_tasks(names: Mapping[Language, str], folder: str | Path | None) -> Any:
    """Return the `TaskManager` of the harness that has all tasks.

    Args:
        names: Language → the name of its task.
        folder: A folder with tasks of the user's own, in YAML.

    Raises:
        ConfigurationError: If there is no such folder, or no such task. It names them all.
    """
    own = None
    if folder is not None:
        if not Path(folder).is_dir():
            raise ConfigurationError(
                "The tasks of your own must be YAML files in a folder. Found no folder"
                f" {str(folder)!r}. Name the folder, not a file in it."
            )
        # the thousands of tasks of the harness take seconds to list
        manager = harness_library("lm_eval.tasks").TaskManager
        alone = manager(include_path=str(folder), include_defaults=False)
        if set(names.values()) <= set(alone.all_subtasks):
            return alone
        own = str(folder)

    found = _all_tasks() if own is None else manager(include_path=own)
    known = found.all_tasks
    missing = {key: name for key, name in names.items() if name not in known}
    if missing:
        parts = [_missing(key, name, known) for key, name in [*missing.items()][:_SHOWN]]
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise ConfigurationError(
            "A task must be one of lm-evaluation-harness, or of `task_folder`, in each language"
            f" that is scored. Found none for {', '.join(parts)}{more}. Name the languages that the"
            " task has (`languages`), or what it calls them (`codes`); `lm-eval ls tasks` lists all"
            " tasks."
        )
    return found


def run_task(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    manager: Any,
    name: str,
    task: HarnessTask,
    batch_size: int,
) -> JsonObject:
    """Return what the harness measures of a model in the language that is set.

    The states of the random numbers are those of before, although the harness sets seeds.

    Args:
        model: The model.
        tokenizer: Its tokenizer; it does not change.
        manager: What finds the task.
        name: The name of the task in the language.
        task: The options.
        batch_size: Rows per pass.
    """
    device = device_of(model)
    devices = [device] if device.type == "cuda" else []

    config: Any = model.config
    with _quiet():
        served = harness_library("lm_eval.models.huggingface").HFLM(
            pretrained=_Served(model),
            tokenizer=copy.deepcopy(tokenizer),  # the harness sets a padding token
            backend="seq2seq" if config.is_encoder_decoder else "causal",
            batch_size=batch_size,
        )

    with seeded(_SEED), torch.random.fork_rng(devices):
        results: JsonObject = harness_library().simple_evaluate(
            served,
            tasks=[name],
            task_manager=manager,
            num_fewshot=task.num_fewshot,
            limit=task.limit,
            apply_chat_template=task.chat_template,
        )
    return results


@cache
def _all_tasks() -> Any:
    return harness_library("lm_eval.tasks").TaskManager()


class _Served:
    """What the harness calls in place of a model.

    No module, since the harness ties the weights of those again, which this package has done.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.config = model.config
        self.device = device_of(model)

    def __call__(self, *args: object, **inputs: object) -> object:
        """Run a forward pass."""
        return self._model(*args, **inputs)

    def generate(self, *args: object, **inputs: object) -> object:
        """Generate text."""
        return self._model.generate(*args, **inputs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that the harness has for everyone who hands it a model."""
    logger = logging.getLogger("lm_eval.models.huggingface")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _missing(language: Language, name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return f"{language!r} ({name!r}{hint})"
