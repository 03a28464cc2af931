"""Fine-tune a saved family to tag words (named entities, parts of speech) and score it language by language.

Needs   a family that `save_pretrained` wrote (`make quickstart` leaves one in outputs/quickstart/model), and labelled
        data: a folder with <language>/{train,test}.jsonl, a line {"tokens": [...], "tags": [...]},
        or a Hub name.
Writes  scores.json, scores.md and scores.png to --output_dir.

    python recipes/finetune_token_classification.py --config recipes/configs/wikiann.yaml --model
    MODEL --train shared

Protocols: within-language (trained and tested in l, with φ_l), zero-shot (trained in
--source_language with its φ, tested in l with φ_l), few-shot (zero-shot, then a few examples of l).
A warning tells what looks put together wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import AutoModelForTokenClassification

from hf_meta_adapters.cli.recipe_arguments import parse_arguments
from hf_meta_adapters.evaluation import NER, POS
from hf_meta_adapters.finetuning import FinetuningArguments, run_finetuning


@dataclass
class Arguments(FinetuningArguments):
    task: str = field(default="ner", metadata={"help": '"ner" (F1 of spans) or "pos" (accuracy).'})
    types: list[str] = field(
        default_factory=lambda: ["PER", "ORG", "LOC"],
        metadata={"help": "Entities that count; others become O."},
    )


def main() -> None:
    args = parse_arguments(Arguments, description=__doc__)
    task = {"ner": lambda: NER(args.types), "pos": POS}[args.task]()
    print(run_finetuning(args, task, AutoModelForTokenClassification).to_markdown())


if __name__ == "__main__":
    main()
