"""Fine-tune a saved family to tag words, as names or parts of speech, and score every language.

Needs:    a family that `save_pretrained` wrote (the recipe quickstart leaves one in
          outputs/quickstart/model), and labelled data: a folder with
          <language>/{train,test}.jsonl, one {"tokens": [...], "tags": [...]} a line, or the name
          of a dataset on the Hub.
Takes:    minutes on one core with the family of the quickstart and a few hundred steps.
Writes:   scores.json, scores.md and scores.png to --output_dir.
Command:  hf-meta-adapters run finetune_token_classification --config wikiann
              --model MODEL --train shared
Override: every setting is an argument, and the command line wins over --config:
          --protocol within-language   train and test in l, with φ_l
          --protocol zero-shot         train in --source_language with its φ, test in l with φ_l
          --protocol few-shot          zero-shot, then --shots examples of l
          --train shared               what is trained, see `load_for_task`
          To change a step, copy this file. A warning tells of a model put together wrongly.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import transformers
from transformers import AutoModelForTokenClassification, AutoTokenizer

from hf_meta_adapters import LanguageAdapterModel
from hf_meta_adapters.cli import parse_arguments
from hf_meta_adapters.cli.process_group import closing_process_group
from hf_meta_adapters.evaluation import NER, get_task
from hf_meta_adapters.finetuning import (
    FinetuningArguments,
    FinetuningSettings,
    few_shot,
    load_for_task,
    within_language,
    zero_shot,
)
from hf_meta_adapters.finetuning.labelled_data import load_labelled_data
from hf_meta_adapters.finetuning.scores import majority_scores, save_scores


@dataclass
class Arguments(FinetuningArguments):
    """Beyond those of every fine-tuning recipe."""

    task: str = field(default="ner", metadata={"help": '"ner" (F1 of spans) or "pos" (accuracy).'})
    types: list[str] = field(
        default_factory=lambda: ["PER", "ORG", "LOC"],
        metadata={"help": "The types of names that count; all others become O."},
    )


def main() -> None:
    args = parse_arguments(Arguments, description=__doc__)
    args.check()
    began = time.perf_counter()

    # Task: the tags, and how they are scored. Another score is another `Task`
    # (see the page “Write a task”); `get_task` also knows the tasks that you registered.
    task = get_task(args.task)
    if args.task == "ner":
        task = NER(args.types)

    # Data: language → examples with the columns that the header names; `train` has the languages
    # whose labels the protocol uses.
    train, test = load_labelled_data(args)
    tokenizer = AutoTokenizer.from_pretrained(args.model)

    # Model: the saved family with a new head. The head is random, and every model of an experiment
    # must start from the same one.
    def make_model() -> LanguageAdapterModel:
        transformers.set_seed(args.seed)
        return load_for_task(args.model, AutoModelForTokenClassification, task, train=args.train)

    # Training: `training={...}` takes further arguments of MetaAdapterTrainingArguments.
    settings = FinetuningSettings(
        learning_rate=args.learning_rate,
        epochs=args.epochs,
        max_steps=args.max_steps,
        batch_size=args.batch_size,
        max_length=args.max_length,
        seed=args.seed,
        progress=True,
    )

    # Protocol: which labels the model learns from before it is scored in each language.
    steps = (make_model, task, train, test, tokenizer, settings)
    if args.protocol == "within-language":
        scores = within_language(*steps)
    elif args.protocol == "zero-shot":
        scores = zero_shot(*steps, source_language=args.source_language)
    else:
        scores = few_shot(*steps, source_language=args.source_language, shots=args.shots)

    # The score to beat: the most frequent label of the training data, everywhere.
    majority = majority_scores(args.protocol, task, train, test)

    save_scores(args, scores, majority=majority, seconds=time.perf_counter() - began)
    print(scores.to_markdown())


if __name__ == "__main__":
    with closing_process_group():
        main()
