"""Do languages conflict more than texts of one language do, and do they need other weights?

Trains a small masked language model on all languages with `GradientConflictCallback`. Then, on text
that it did not learn from, compares gradients of pairs of languages with those of independent texts
of one language, and masks learned for languages with masks of two seeds of one language. Whatever
comes out is written.

Needs:    the package with its extra plots.
Takes:    two minutes on one core with --steps 400 --batch_size 8.
Writes:   one JSON file and a picture beside it, and tables to the terminal.
Command:  hf-meta-adapters run conflict_on_text --output conflict_on_text.json
Override: --data FOLDER --held_out valid --languages en fr ar for other text, see --help.
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from itertools import chain, combinations_with_replacement
from pathlib import Path

import torch
import transformers
from transformers import DataCollatorForLanguageModeling, HfArgumentParser, set_seed

import hf_meta_adapters as hma
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.pretraining import train_tokenizer
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.methods import pretrain
from hf_meta_adapters.study.model_sizes import small_sizes

MASKED = 0.3  # share of the tokens that are predicted
VERSIONS = {library.__name__: library.__version__ for library in (hma, torch, transformers)}


@dataclass
class Arguments:
    """What can be set on the command line."""

    output: str = field(
        default="outputs/conflict_on_text.json",
        metadata={"help": "File for the result; a picture beside it."},
    )
    data: str = field(
        default="verses", metadata={"help": "Folder with <language>/train.txt.gz; verses."}
    )
    lines: int = field(default=6000, metadata={"help": "Most lines of each language."})
    held_out: str = field(
        default="meta", metadata={"help": "Name of the files of text that is not learned from."}
    )
    languages: list[str] = field(
        default_factory=lambda: ["en", "fr", "ru", "sw"], metadata={"help": "Folders of data."}
    )
    steps: int = field(default=300, metadata={"help": "Optimizer steps."})
    batch_size: int = field(
        default=12, metadata={"help": "Texts of each language in a step, and in a probe batch."}
    )
    learning_rate: float = field(default=8e-3, metadata={"help": "Peak learning rate."})
    probes: int = field(default=40, metadata={"help": "Most probe batches of each language."})
    sparsity: float = field(
        default=0.2, metadata={"help": "Share of the weights that masks prune."}
    )
    mask_steps: int = field(default=200, metadata={"help": "Steps of each mask."})
    seed: int = field(default=0, metadata={"help": "Seed of weights, batches and masked tokens."})


def probe_batches(texts: dict[str, list[str]], tokenizer, args: Arguments) -> dict[str, list]:
    """Language → batches of held-out text, which gradients and masks are taken from."""
    set_seed(args.seed)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED)
    size = args.batch_size

    batches = {}
    for key in args.languages:
        rows = [tokenizer(line, truncation=True) for line in texts[key]]
        starts = range(0, min(args.probes * size, len(rows) - size + 1), size)
        batches[key] = [collator(rows[start : start + size]) for start in starts]

    return batches


def pairs(conflict: hma.diagnostics.ConflictMatrix) -> list[dict]:
    """Pairs of languages, or of independent texts of one, with their cosines and intervals."""
    languages, cosines = conflict.languages, []
    for i, j in combinations_with_replacement(range(len(languages)), 2):
        low, high = conflict.interval[i, j].tolist()
        cosines.append(
            {
                "pair": f"{languages[i]}–{languages[j]}",
                "cosine": float(conflict.matrix[i, j]),
                "low": low,
                "high": high,
            }
        )

    return sorted(cosines, key=lambda pair: -pair["cosine"])


def main() -> None:
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    began = time.perf_counter()

    texts = read_texts(args.data, "train", args.languages, args.lines)
    held_out = read_texts(args.data, args.held_out, args.languages, args.lines)
    tokenizer = train_tokenizer(chain(*texts.values()), vocabulary=2500, max_length=64)

    # Training, watched: the callback measures conflict six times.
    callback = hma.GradientConflictCallback(every=max(1, args.steps // 6), number_of_batches=8)
    pretrained = pretrain(
        "joint",
        texts,
        tokenizer,
        model_type="modernbert",
        sizes=small_sizes(),
        steps=args.steps,
        seed=args.seed,
        mlm_probability=MASKED,
        callbacks=[callback],
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
    )

    # Probing, of the trained model on held-out text.
    batches = probe_batches(held_out, tokenizer, args)
    conflict = hma.gradient_conflict(
        pretrained.model, batches, per_layer=True, blocks=args.probes, progress=True
    )
    masks = hma.learn_language_masks(
        pretrained.model, batches, sparsity=args.sparsity, steps=args.mask_steps, progress=True
    )
    overlap = hma.mask_overlap(masks)

    result = {
        "arguments": asdict(args),
        "versions": VERSIONS,
        "command": written_command(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "seconds": round(time.perf_counter() - began),
        "pairs": pairs(conflict),
        "gradient_conflict": conflict.to_dict(),
        "mask_overlap": overlap.to_dict(),
        "over_time": {step: then.to_dict()["matrix"] for step, then in callback.history.items()},
    }

    write_text(args.output, json.dumps(result, indent=1, ensure_ascii=False))
    callback.plot(Path(args.output).with_suffix(".png"))

    for pair in result["pairs"]:
        print("{pair:>12} {cosine:.3f} [{low:.3f}, {high:.3f}]".format(**pair))
    print(f"\n{overlap.to_markdown()}")


if __name__ == "__main__":
    torch.set_num_threads(1)  # models this small lose more to threads than they gain
    main()
