"""A saved family with a new head, and the choice of what fine-tuning trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hf_meta_adapters._typing import AutoClass, Keywords, Language
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation import Task
from hf_meta_adapters.finetuning._task_adapter import (
    TaskAdapterConfig,
    default_task_adapter,
    head_modules,
    with_head,
)
from hf_meta_adapters.hub.client import Access
from hf_meta_adapters.hub.download import fetch_family, local_folder
from hf_meta_adapters.hub.manifest import Family, read_manifest
from hf_meta_adapters.modeling.model import LanguageAdapterModel

__all__ = ["load_for_task"]

CHOICES = ("head", "adapters", "shared", "all", "task_adapter")
TRAIN_BODY = ("shared", "all")
TRAIN_ADAPTERS = ("adapters", "all")


def load_for_task(
    path: str | Path,
    auto_class: AutoClass,
    task: Task,
    *,
    train: str | TaskAdapterConfig = "all",
    languages: Sequence[Language] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    **model_arguments: object,
) -> LanguageAdapterModel:
    """Load a saved family with a new head for a task, and choose what is trained.

    Args:
        path: The folder that `save_pretrained` wrote, or a repository on the Hub, such as
            `"me/family"`.
        auto_class: The class with the head, such as `transformers.AutoModelForTokenClassification`.
        task: The task, which names the classes.
        train: `"head"` (everything else is frozen), `"adapters"` (head and φ), `"shared"` (head and
            θ; φ stays as pretrained, so that the φ_l put in its place meets the θ it knows),
            `"all"`, or a task adapter, stacked on every φ_l while θ and φ are frozen, as in MAD-X
            (Pfeiffer et al. 2020): a `peft.PeftConfig` such as
            `LoraConfig(target_modules="all-linear")`, or `"task_adapter"` for exactly that.
        languages: The languages to load; default all.
        revision: A branch, a tag or a commit of the repository.
        token: The token for a private repository; default that of `hf auth login`.
        **model_arguments: Further arguments of the class's `from_pretrained`.

    Returns:
        The model.

    Raises:
        ConfigurationError: If `train` is unknown, or the head cannot be told from the parameters
            that are to be frozen.
        HubError: If files are missing or damaged, or cannot be downloaded.
    """
    folder = local_folder(path)
    if folder is not None:
        family = read_manifest(folder)
    else:
        folder, family = fetch_family(path, languages, Access(revision, token))
    shared = _shared_part(train, family, folder, auto_class)

    # Without classes, as for question answering, the head has the size that its class gives it.
    keywords: Keywords = model_arguments
    if task.labels:
        keywords = {"id2label": task.id2label, "label2id": task.label2id, **model_arguments}

    model = LanguageAdapterModel.from_pretrained(
        folder,
        auto_class=auto_class,
        languages=languages,
        shared=shared,
        **keywords,
    )

    # Every φ_l may train: a language without training data has no gradient and stays as it is.
    trained_languages: tuple[Language, ...] = ()
    if train in TRAIN_ADAPTERS:
        trained_languages = model.languages
    model.train_only(*trained_languages, shared=True)

    return model


def _shared_part(
    train: str | TaskAdapterConfig, family: Family, path: str | Path, auto_class: AutoClass
) -> str | TaskAdapterConfig:
    """Return what θ is during fine-tuning, as `get_language_model` takes it. The head always is."""
    if isinstance(train, str) and train not in CHOICES:
        raise ConfigurationError(
            f"`train` must be one of {list(CHOICES)}, or a PeftConfig. Found {train!r}. Use for"
            ' example "shared".'
        )

    trains_body = train in TRAIN_BODY
    if family.theta_is_adapter or not (family.body or trains_body):
        if family.theta_is_adapter:
            obstacle = "θ is itself an adapter"
        else:
            obstacle = f"`{family.base_class}` has no single body"
        raise ConfigurationError(
            "Fine-tuning needs a family whose θ is the weights of a model with a body and a head."
            f' Found that {obstacle}. Pretrain with `shared="all"`, or use `train="all"`.'
        )

    if trains_body:
        return "all"

    if train == "task_adapter":
        train = default_task_adapter()
    if not isinstance(train, str):
        return with_head(train, head_modules(path, auto_class, family.body))

    # Everything outside the body, plus the pooler: BERT has it in the body, but it is as new as the
    # head, because masked language models are saved without one.
    return rf"^(?!{family.body}\.)|\.pooler\."
