"""Fine-tune a saved family to answer questions by a span of a passage and score it language by language.

Needs   a family that `save_pretrained` wrote, and data: a folder with <language>/{train,test}.jsonl, a line
        {"question", "context", "answers": {"text": [...], "answer_start": [...]}}, or a name on the
        Hub.
Writes  scores.json, scores.md and scores.png to --output_dir.

    python recipes/finetune_question_answering.py --config recipes/configs/tydiqa.yaml --model MODEL
    --train shared

Protocols: within-language (trained and tested in l, with φ_l), zero-shot (trained in
--source_language with its φ, tested in l with φ_l), few-shot (zero-shot, then a few examples of l).
A warning tells what looks put together wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import AutoModelForQuestionAnswering

from hf_meta_adapters.cli.recipe_arguments import parse_arguments
from hf_meta_adapters.evaluation import QuestionAnswering
from hf_meta_adapters.finetuning import FinetuningArguments, run_finetuning


@dataclass
class Arguments(FinetuningArguments):
    normalization: str = field(
        default="language", metadata={"help": '"language", or "squad" in every language.'}
    )
    stride: int = field(
        default=128, metadata={"help": "Tokens that neighbouring windows of a passage share."}
    )


def main() -> None:
    args = parse_arguments(Arguments, description=__doc__)
    task = QuestionAnswering(args.normalization, stride=args.stride)
    print(run_finetuning(args, task, AutoModelForQuestionAnswering).to_markdown())


if __name__ == "__main__":
    main()
