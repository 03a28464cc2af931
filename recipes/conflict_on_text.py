"""Do languages conflict more than texts of one language do, and do they need other weights? A joint model of real text.

Trains a small masked language model on all languages with `GradientConflictCallback`. Then, on text
that it did not learn from, compares gradients of pairs of languages with those of independent texts
of one language, and masks learned for languages with masks of two seeds of one language. Whatever
comes out is what is written.

    python recipes/conflict_on_text.py --output recipes/results/conflict_on_text.json    # see --help
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from dataclasses import asdict, dataclass, field
from itertools import chain, combinations_with_replacement
from pathlib import Path

import torch
import transformers
from transformers import (
    DataCollatorForLanguageModeling,
    HfArgumentParser,
    PreTrainedTokenizerFast,
    set_seed,
)

import hf_meta_adapters as hma
from hf_meta_adapters.pretraining import train_tokenizer
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.methods import pretrain, small_sizes

VERSIONS = {library.__name__: library.__version__ for library in (hma, torch, transformers)}


@dataclass
class Arguments:
    """What can be set on the command line."""

    output: str = field(
        default="outputs/conflict_on_text.json", metadata={"help": "Result; a picture beside it."}
    )
    data: str = field(
        default="recipes/data", metadata={"help": "Folder with <language>/train.txt.gz; verses."}
    )
    lines: int = field(default=6000, metadata={"help": "Lines of each language at most."})
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
    probes: int = field(default=40, metadata={"help": "Probe batches of each language, at most."})
    sparsity: float = field(
        default=0.2, metadata={"help": "Share of the weights that masks prune."}
    )
    mask_steps: int = field(default=200, metadata={"help": "Steps of each mask."})
    seed: int = field(default=0, metadata={"help": "Seed of weights, batches and what is masked."})


def train(args: Arguments, texts: dict, tokenizer: PreTrainedTokenizerFast) -> tuple:
    """The joint model, and the callback that looked on."""
    callback = hma.GradientConflictCallback(every=max(1, args.steps // 6), number_of_batches=8)
    options = {
        "steps": args.steps,
        "seed": args.seed,
        "mlm_probability": 0.3,
        "callbacks": [callback],
    }
    options |= {"per_device_train_batch_size": args.batch_size, "learning_rate": args.learning_rate}
    made = pretrain(
        "joint", texts, tokenizer, model_type="modernbert", sizes=small_sizes(), **options
    )
    return made.model, callback


def pairs(conflict: hma.diagnostics.ConflictMatrix) -> list[dict]:
    """Each pair of languages, or of independent texts of one, with its cosine and the ends of its interval."""
    keys, found = conflict.languages, []
    for i, j in combinations_with_replacement(range(len(keys)), 2):
        low, high = conflict.interval[i, j].tolist()
        found.append(
            {
                "pair": f"{keys[i]}–{keys[j]}",
                "cosine": float(conflict.matrix[i, j]),
                "low": low,
                "high": high,
            }
        )
    return sorted(found, key=lambda one: -one["cosine"])


def main() -> None:
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    began = time.perf_counter()
    texts = {
        role: read_texts(args.data, role, args.languages, args.lines)
        for role in ("train", args.held_out)
    }
    tokenizer = train_tokenizer(chain(*texts["train"].values()), vocabulary=2500, max_length=64)
    model, callback = train(args, texts["train"], tokenizer)
    set_seed(args.seed)
    collator, size = (
        DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3),
        args.batch_size,
    )
    held_out = {
        key: [tokenizer(line, truncation=True) for line in lines]
        for key, lines in texts[args.held_out].items()
    }
    starts = {
        key: range(0, min(args.probes * size, len(held_out[key]) - size + 1), size)
        for key in args.languages
    }
    batches = {
        key: [collator(held_out[key][k : k + size]) for k in several]
        for key, several in starts.items()
    }
    conflict = hma.gradient_conflict(
        model, batches, per_layer=True, blocks=args.probes, progress=True
    )
    options = {"sparsity": args.sparsity, "steps": args.mask_steps, "progress": True}
    overlap = hma.mask_overlap(hma.learn_language_masks(model, batches, **options))

    found = pairs(conflict)
    result = {
        "arguments": asdict(args),
        "versions": VERSIONS,
        "command": shlex.join(["python", *sys.argv]),
    }
    result |= {
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "seconds": round(time.perf_counter() - began),
    }
    result |= {
        "pairs": found,
        "gradient_conflict": conflict.to_dict(),
        "mask_overlap": overlap.to_dict(),
    }
    result["over_time"] = {step: one.to_dict()["matrix"] for step, one in callback.history.items()}
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    callback.plot(output.with_suffix(".png"))
    print(
        *(
            f"{one['pair']:>12} {one['cosine']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
            for one in found
        ),
        sep="\n",
    )
    print(f"\n{overlap.to_markdown()}")


if __name__ == "__main__":
    torch.set_num_threads(1)  # models this small lose more to threads than they win
    main()
