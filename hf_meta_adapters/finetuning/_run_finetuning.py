"""A fine-tuning experiment from its settings to its files, in one call.

The recipes `finetune_*.py` take the same steps one by one: copy one of them to change a step.
"""

from __future__ import annotations

import time
from functools import partial

import transformers

from hf_meta_adapters._typing import AutoClass
from hf_meta_adapters.evaluation import LanguageScores, Task
from hf_meta_adapters.finetuning._finetuning_arguments import FinetuningArguments
from hf_meta_adapters.finetuning._finetuning_settings import FinetuningSettings
from hf_meta_adapters.finetuning._load_for_task import load_for_task
from hf_meta_adapters.finetuning.labelled_data import load_labelled_data
from hf_meta_adapters.finetuning.protocols import PROTOCOLS
from hf_meta_adapters.finetuning.scores import majority_scores, save_scores
from hf_meta_adapters.modeling.model import LanguageAdapterModel

__all__ = ["run_finetuning"]


def run_finetuning(args: FinetuningArguments, task: Task, auto_class: AutoClass) -> LanguageScores:
    """Load model and data, fine-tune and score by the protocol, and write the scores to files.

    Args:
        args: The settings. `scores.json`, `scores.md` and `scores.png` go to `output_dir`.
        task: The task.
        auto_class: The transformers class with the head of the task.

    Returns:
        The scores.

    Raises:
        ConfigurationError: If a setting cannot work.
        DataError: If data is missing or malformed.
        HubError: If the model is missing or damaged.
    """
    args.check()
    began = time.perf_counter()

    train, test = load_labelled_data(args)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)

    def make_model() -> LanguageAdapterModel:
        # The new head is random: every model of an experiment must start from the same one.
        transformers.set_seed(args.seed)
        return load_for_task(args.model, auto_class, task, train=args.train)

    settings = FinetuningSettings(
        learning_rate=args.learning_rate,
        epochs=args.epochs,
        max_steps=args.max_steps,
        batch_size=args.batch_size,
        max_length=args.max_length,
        seed=args.seed,
        progress=True,
    )

    protocol = PROTOCOLS[args.protocol]
    if args.protocol in ("zero-shot", "few-shot"):
        protocol = partial(protocol, source_language=args.source_language)
    if args.protocol == "few-shot":
        protocol = partial(protocol, shots=args.shots)
    scores = protocol(make_model, task, train, test, tokenizer, settings)

    # The score to beat. Question answering has no labels to count.
    majority = None
    if task.labels:
        majority = majority_scores(args.protocol, task, train, test)

    save_scores(args, scores, majority=majority, seconds=time.perf_counter() - began)
    return scores
