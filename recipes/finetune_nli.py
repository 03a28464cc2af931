"""Fine-tune a saved family to tell whether a premise entails a hypothesis and score it language by language.

Needs   a family that `save_pretrained` wrote, and data: a folder with <language>/{train,test}.jsonl, a line {"premise",
        "hypothesis", "label"} with a label of entailment, neutral, contradiction, or a name on the
        Hub.
Writes  scores.json, scores.md and scores.png to --output_dir.

    python recipes/finetune_nli.py --config recipes/configs/xnli.yaml --model MODEL --train shared

Protocols: within-language (trained and tested in l, with φ_l), zero-shot (trained in
--source_language with its φ, tested in l with φ_l), few-shot (zero-shot, then a few examples of l).
A warning tells what looks put together wrongly.
"""

from __future__ import annotations

from transformers import AutoModelForSequenceClassification

from hf_meta_adapters.cli.recipe_arguments import parse_arguments
from hf_meta_adapters.evaluation import NLI
from hf_meta_adapters.finetuning import FinetuningArguments, run_finetuning


def main() -> None:
    args = parse_arguments(FinetuningArguments, description=__doc__)
    print(run_finetuning(args, NLI(), AutoModelForSequenceClassification).to_markdown())


if __name__ == "__main__":
    main()
