"""A fine-tuning experiment from its settings to its files, in one call.

The recipes `finetune_*.py` take the same steps one by one: copy one of them to change a step.
"""

from __future__ import annotations

import time

import transformers

from hf_meta_adapters._typing import AutoClass, Keywords
from hf_meta_adapters.evaluation import LanguageScores, Task
from hf_meta_adapters.finetuning._finetuning_arguments import FinetuningArguments
from hf_meta_adapters.finetuning._load_for_task import load_for_task
from hf_meta_adapters.finetuning.labelled_data import load_labelled_data, load_selection_data
from hf_meta_adapters.finetuning.protocols import PROTOCOLS
from hf_meta_adapters.finetuning.publishing import publish_model
from hf_meta_adapters.finetuning.scores import majority_scores, save_scores
from hf_meta_adapters.modeling.model import LanguageAdapterModel

__all__ = ["run_finetuning"]


def run_finetuning(
    args: FinetuningArguments,
    task: Task,
    auto_class: AutoClass,
    training: Keywords | None = None,
) -> LanguageScores:
    """Load model and data, fine-tune and score by the protocol, and write scores and model.

    Args:
        args: The settings. `scores.json`, `scores.md` and `scores.png` go to `output_dir`, and so
            does the model: to `output_dir` itself, or to `models/<language>` in it where the
            protocol trains one for each language.
        task: The task.
        auto_class: The transformers class with the head of the task.
        training: Arguments of `MetaAdapterTrainingArguments`. With `push_to_hub`, the model is
            published when it has been scored.

    Returns:
        The scores.

    Raises:
        ConfigurationError: If a setting cannot work.
        DataError: If data is missing or malformed.
        HubError: If the model is missing or damaged, or cannot be published.
    """
    training = training or {}
    args.check(training)
    began = time.perf_counter()

    train, test = load_labelled_data(args)
    selection = load_selection_data(args, train)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model, revision=args.model_revision)

    def make_model() -> LanguageAdapterModel:
        # The new head is random: every model of an experiment must start from the same one.
        transformers.set_seed(args.seed)
        return load_for_task(
            args.model,
            auto_class,
            task,
            train=args.trained_part(),
            revision=args.model_revision,
        )

    scores = PROTOCOLS[args.protocol](
        make_model,
        task,
        train,
        test,
        tokenizer,
        args.settings(training),
        eval_datasets=selection,
        **args.protocol_options(),
    )

    # The score to beat. Question answering has no labels to count.
    majority = None
    if task.labels:
        majority = majority_scores(args.protocol, task, train, test)

    seconds = time.perf_counter() - began
    save_scores(args, scores, majority=majority, seconds=seconds, training=training)
    if training.get("push_to_hub"):
        publish_model(args.output_dir, scores, tokenizer, training)
    return scores
