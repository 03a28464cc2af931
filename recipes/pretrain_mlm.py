"""Train a masked language model (BERT, XLM-R, ModernBERT, …) on your text, with an adapter for each language.

Needs   text: a folder with <language>/train.txt (or .txt.gz, .jsonl, …; a text a line), or a name on the Hub.
Writes the family to --output_dir: θ as a plain checkpoint, a folder for each language, the
tokenizer; with
        --eval_split the bits per character of each language in scores.json and scores.md.

    python recipes/pretrain_mlm.py --model FacebookAI/xlm-roberta-base --data TEXTS --output_dir
    outputs/family python recipes/pretrain_mlm.py --config recipes/configs/pretrain_mlm.yaml # from
    scratch, on bundled verses

Further arguments are those of MetaAdapterTrainingArguments: --preset fast, --adapter_update train
(joint training of adapters, a baseline), --bf16 true, --gradient_checkpointing true, … With
--resume true a run that was killed goes on.
"""

from __future__ import annotations

from transformers import AutoModelForMaskedLM

from hf_meta_adapters import MetaAdapterTrainingArguments
from hf_meta_adapters.cli.recipe_arguments import parse_arguments
from hf_meta_adapters.pretraining import PretrainingArguments, run_pretraining


def main() -> None:
    args, training = parse_arguments(
        (PretrainingArguments, MetaAdapterTrainingArguments), description=__doc__
    )
    run_pretraining(args, training, AutoModelForMaskedLM, "masked_lm")


if __name__ == "__main__":
    main()
