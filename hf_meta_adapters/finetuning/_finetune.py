"""Fine-tuning of a saved family on a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding
from transformers.trainer_callback import PrinterCallback

from hf_meta_adapters._typing import Language, Rows
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation import Task
from hf_meta_adapters.evaluation.sanity import check_moved, head_of
from hf_meta_adapters.finetuning._task_adapter import default_task_adapter, head_modules, with_head
from hf_meta_adapters.hub.manifest import Family, read_manifest
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments
from hf_meta_adapters.training.trainer import MetaAdapterTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["FinetuningSettings", "finetune", "load_for_task"]

_TRAINED = {
    "head": (False, False),
    "adapters": (False, True),
    "shared": (True, False),
    "all": (True, True),
}
"""What is trained → whether the body of θ is, and whether φ of the training language is; the head always is."""


@dataclass(frozen=True)
class FinetuningSettings:
    """How a model is fine-tuned.

    Args:
        learning_rate: Peak rate of AdamW, with a tenth of the steps as warm-up and linear decay.
        epochs: Passes over the labelled data.
        max_steps: Optimizer steps instead; -1 for `epochs`.
        batch_size: Rows in a step.
        max_length: Tokens in a row; `None` for what the tokenizer allows, at most 512.
        seed: Seed of head, dropout and order.
        progress: Show progress bars.
        training: Further arguments of `MetaAdapterTrainingArguments`.
    """

    learning_rate: float = 5e-5
    epochs: float = 3.0
    max_steps: int = -1
    batch_size: int = 32
    max_length: int | None = None
    seed: int = 0
    progress: bool = False
    training: Mapping[str, Any] = field(default_factory=dict)


def load_for_task(
    path: str | Path,
    auto_class: Any,
    task: Task,
    *,
    train: Any = "all",
    languages: Sequence[Language] | None = None,
    **model_arguments: Any,
) -> LanguageAdapterModel:
    """Load a saved family with a new head for a task, and choose what is trained.

    Args:
        path: The folder that `save_pretrained` wrote.
        auto_class: The class with the head, such as `transformers.AutoModelForTokenClassification`.
        task: The task, which names the classes.
        train: `"head"` (everything else is frozen), `"adapters"` (head and φ), `"shared"` (head and
            θ; φ stays as pretrained, so that a φ_l put in its place meets the θ it knows), `"all"`,
            or a task adapter, stacked on every φ_l while θ and φ are frozen, as in MAD-X (Pfeiffer
            et al. 2020): a `peft.PeftConfig` such as `LoraConfig(target_modules="all-linear")`, or
            `"task_adapter"` for just that.
        languages: The languages to load; default all.
        **model_arguments: Further arguments of the class's `from_pretrained`.

    Returns:
        The model.

    Raises:
        ConfigurationError: If `train` is unknown, or what is to be frozen cannot be told from the
            head.
        HubError: If the files are missing or damaged.
    """
    family = read_manifest(Path(path))
    adapters_too, shared = _choice(train, family, path, auto_class)
    labels: dict[str, Any] = (
        {"id2label": task.id2label, "label2id": task.label2id} if task.labels else {}
    )
    model = LanguageAdapterModel.from_pretrained(
        path, auto_class=auto_class, languages=languages, shared=shared, **labels, **model_arguments
    )
    model.train_only(*(model.languages if adapters_too else ()), shared=True)
    return model


def _choice(train: Any, family: Family, path: str | Path, auto_class: Any) -> tuple[bool, Any]:
    """Return whether φ is trained, and what θ is."""
    if train == "task_adapter":
        train = default_task_adapter()
    as_adapter = not isinstance(train, str)
    if not as_adapter and train not in _TRAINED:
        raise ConfigurationError(
            f"`train` must be one of {[*_TRAINED, 'task_adapter']}, or a PeftConfig. Found"
            f' {train!r}. Write for example "shared".'
        )
    body_too, adapters_too = (False, False) if as_adapter else _TRAINED[train]
    if family.theta_is_adapter or not (family.body or body_too):
        found = (
            "θ is an adapter itself"
            if family.theta_is_adapter
            else f"`{family.base_class}` has no single body"
        )
        raise ConfigurationError(
            "Fine-tuning needs a family whose θ is the weights of a model with a body and a head."
            f' Found that {found}. Pretrain with `shared="all"`, or write `train="all"`.'
        )
    if as_adapter:
        return False, with_head(train, head_modules(path, auto_class, family.body))
    # the pooler of BERT is in the body, but new: masked language models have none
    return adapters_too, "all" if body_too else rf"^(?!{family.body}\.)|\.pooler\."


def finetune(
    model: LanguageAdapterModel,
    task: Task,
    datasets: Mapping[Language, Rows],
    tokenizer: PreTrainedTokenizerBase,
    settings: FinetuningSettings | None = None,
) -> LanguageAdapterModel:
    """Minimise the loss of a task on labelled data, each language with its φ_l, in place.

    Args:
        model: The model, with the head of the task.
        task: The task.
        datasets: Language → examples, of one language or several.
        tokenizer: The tokenizer.
        settings: How.

    Returns:
        The same model, in evaluation mode.

    Raises:
        ConfigurationError: If the head has not moved.
    """
    how = settings or FinetuningSettings()
    features = {
        key: task.features(rows, tokenizer, language=key, max_length=how.max_length)
        for key, rows in datasets.items()
    }
    first = next(iter(features.values()))[0]
    steps = how.max_steps
    if steps < 0:
        steps = ceil(
            how.epochs * sum(map(len, features.values())) / (how.batch_size * len(features))
        )
    tags = isinstance(first.get("labels"), list)
    with TemporaryDirectory() as folder:
        args = MetaAdapterTrainingArguments(
            output_dir=folder,
            adapter_update="train",
            learning_rate=how.learning_rate,
            max_steps=steps,
            warmup_steps=steps // 10,
            per_device_train_batch_size=how.batch_size,
            seed=how.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=not how.progress,
            **{"adapter_learning_rate": how.learning_rate, **how.training},
        )
        before = head_of(model.base_model)
        trainer = MetaAdapterTrainer(
            model,
            args,
            train_dataset=features,
            data_collator=(DataCollatorForTokenClassification if tags else DataCollatorWithPadding)(
                tokenizer
            ),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    check_moved(before, model.base_model)
    return model.eval()
