"""Fine-tune a saved family to tag words, as names or parts of speech, and score every language.

Needs:    a family that `save_pretrained` wrote (the recipe quickstart leaves one in
          outputs/quickstart/model), or its name on the Hub, and labelled data: a folder with
          <language>/{train,test}.jsonl, one {"tokens": [...], "tags": [...]} a line, or the name
          of a dataset on the Hub.
Takes:    minutes on one core with the family of the quickstart and a few hundred steps.
Writes:   scores.json, scores.md and scores.png to --output_dir, and the fine-tuned model, with its
          tokenizer, ready for `LanguageAdapterModel.from_pretrained`; where a protocol trains a
          model for each language, to models/<language> in it. --save_model false: scores alone.
Command:  hf-meta-adapters run finetune_token_classification --config wikiann
              --model MODEL
Override: every setting is an argument, and the command line wins over --config:
          --protocol within-language   train and test in l, with φ_l
          --protocol zero-shot         train in --source_language with its φ, test in l with φ_l
          --protocol few-shot          zero-shot, then --shots examples of l
          --protocol joint-few-shot    both at once, one model for all languages
          --protocol meta-few-shot     the examples of l are for the meta-gradient of the φ
          --protocol projected-few-shot  as before, and θ takes no step that opposes them
          --train shared               what is trained, see `load_for_task`
          --eval_split validation      keep the model of the best score, and stop early
          Settings of MetaAdapterTrainingArguments are arguments as well: --bf16 true,
          --lookahead next, --adapter_learning_rate 1e-5, --push_to_hub true, …
          To change a step, copy this file. A warning tells of a model put together wrongly.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import transformers
from transformers import AutoModelForTokenClassification, AutoTokenizer

from hf_meta_adapters import LanguageAdapterModel, MetaAdapterTrainingArguments
from hf_meta_adapters.cli.given_arguments import parse_given
from hf_meta_adapters.cli.process_group import closing_process_group
from hf_meta_adapters.evaluation import NER, get_task
from hf_meta_adapters.finetuning import FinetuningArguments, load_for_task
from hf_meta_adapters.finetuning.labelled_data import load_labelled_data, load_selection_data
from hf_meta_adapters.finetuning.protocols import PROTOCOLS
from hf_meta_adapters.finetuning.publishing import publish_model
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
    # `training`: those arguments of the Trainer that were given, to the recipe or in --config.
    args, training = parse_given(Arguments, MetaAdapterTrainingArguments, description=__doc__)
    args.check(training)
    began = time.perf_counter()

    # Task: the tags, and how they are scored. Another score is another `Task`
    # (see the page “Write a task”); `get_task` also knows the tasks that you registered.
    task = get_task(args.task)
    if args.task == "ner":
        task = NER(args.types)

    # Data: language → examples with the columns that the header names; `train` has the languages
    # whose labels the protocol uses; `selection`, with --eval_split, chooses the best step.
    train, test = load_labelled_data(args)
    selection = load_selection_data(args, train)
    tokenizer = AutoTokenizer.from_pretrained(args.model, revision=args.model_revision)

    # Model: the saved family with a new head. The head is random, and every model of an experiment
    # must start from the same one.
    def make_model() -> LanguageAdapterModel:
        transformers.set_seed(args.seed)
        return load_for_task(
            args.model,
            AutoModelForTokenClassification,
            task,
            train=args.trained_part(),
            revision=args.model_revision,
        )

    # Protocol: which labels the model learns from, and how, before it is scored in each language.
    # Each is a function of `hf_meta_adapters.finetuning`, such as `few_shot`, whose docstring says
    # what it trains. It saves the model, if it is asked to.
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

    # The score to beat: the most frequent label of the training data, everywhere.
    majority = majority_scores(args.protocol, task, train, test)

    seconds = time.perf_counter() - began
    save_scores(args, scores, majority=majority, seconds=seconds, training=training)
    print(scores.to_markdown())

    if training.get("push_to_hub"):
        publish_model(args.output_dir, scores, tokenizer, training)


if __name__ == "__main__":
    with closing_process_group():
        main()
