"""Do languages conflict more than texts of one language do, and do they need other weights? A joint model of real text.

Trains a small masked language model on all languages with `GradientConflictCallback`. Then, on text that it did not
learn from, compares gradients of pairs of languages with those of independent texts of one language, and masks learned
for languages with masks of two seeds of one language. Whatever comes out is what is written.

    python recipes/conflict_on_text.py --output recipes/results/conflict_on_text.json    # see --help
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import shlex
import sys
import time
from dataclasses import asdict, dataclass, field
from itertools import combinations_with_replacement
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import DataCollatorForLanguageModeling, HfArgumentParser, PreTrainedTokenizerFast, set_seed

import hf_meta_adapters as hma

VERSIONS = {library.__name__: library.__version__ for library in (hma, torch, transformers)}


@dataclass
class Arguments:
    """What can be set on the command line."""

    output: str = field(default="outputs/conflict_on_text.json", metadata={"help": "Result; a picture beside it."})
    data: str | None = field(default=None, metadata={"help": "Folder with <language>/train.txt.gz; default: verses."})
    held_out: str = field(default="meta", metadata={"help": "Name of the files of text that is not learned from."})
    languages: list[str] = field(
        default_factory=lambda: ["en", "fr", "ru", "sw"], metadata={"help": "Folders of data."}
    )
    steps: int = field(default=300, metadata={"help": "Optimizer steps."})
    batch_size: int = field(default=12, metadata={"help": "Texts of each language in a step, and in a probe batch."})
    learning_rate: float = field(default=5e-3, metadata={"help": "Peak learning rate."})
    probes: int = field(default=40, metadata={"help": "Probe batches of each language, at most."})
    sparsity: float = field(default=0.2, metadata={"help": "Share of the weights that masks prune."})
    mask_steps: int = field(default=200, metadata={"help": "Steps of each mask."})
    seed: int = field(default=0, metadata={"help": "Seed of weights, batches and what is masked."})


def read(args: Arguments, language: str, role: str) -> list[str]:
    folder = Path(__file__).parent / "data" if args.data is None else Path(args.data)
    with gzip.open(folder / language / f"{role}.txt.gz", "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE(unk_token=special[3]))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFC(), pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=2500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = dict(zip(["bos_token", "pad_token", "eos_token", "unk_token", "mask_token"], special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


def train(args: Arguments, rows: dict, collator: DataCollatorForLanguageModeling, folder: str) -> tuple:
    """The joint model, and the callback that looked on."""
    set_seed(args.seed)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    places = {"max_position_embeddings": 66, "type_vocab_size": 1, "vocab_size": len(collator.tokenizer)}
    base = transformers.XLMRobertaForMaskedLM(transformers.XLMRobertaConfig(**sizes, **places))
    model = hma.get_language_model(base, None, languages=args.languages)
    callback = hma.GradientConflictCallback(every=max(1, args.steps // 6), number_of_batches=8)
    settings = {"max_steps": args.steps, "per_device_train_batch_size": args.batch_size, "seed": args.seed}
    settings |= {"learning_rate": args.learning_rate, "warmup_steps": args.steps // 10, "adapter_update": "train"}
    quiet = {"logging_strategy": "no", "save_strategy": "no", "report_to": "none"}
    hma.MetaAdapterTrainer(
        model,
        hma.MetaAdapterTrainingArguments(output_dir=folder, **settings, **quiet),
        train_dataset=rows,
        data_collator=collator,
        callbacks=[callback],
    ).train()
    return model.eval(), callback


def pairs(conflict: hma.diagnostics.ConflictMatrix) -> list[dict]:
    """Each pair of languages, or of independent texts of one, with its cosine and the ends of its interval."""
    keys, found = conflict.languages, []
    for i, j in combinations_with_replacement(range(len(keys)), 2):
        low, high = conflict.interval[i, j].tolist()
        found.append({"pair": f"{keys[i]}–{keys[j]}", "cosine": float(conflict.matrix[i, j]), "low": low, "high": high})
    return sorted(found, key=lambda one: -one["cosine"])


def main() -> None:
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    began = time.perf_counter()
    texts = {role: {key: read(args, key, role) for key in args.languages} for role in ("train", args.held_out)}
    tokenizer = train_tokenizer([line for lines in texts["train"].values() for line in lines])
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    rows = {
        role: {key: [tokenizer(line, truncation=True) for line in lines] for key, lines in several.items()}
        for role, several in texts.items()
    }
    with TemporaryDirectory() as folder:
        model, callback = train(args, rows["train"], collator, folder)
    set_seed(args.seed)
    size, held_out = args.batch_size, rows[args.held_out]
    starts = {key: range(0, min(args.probes * size, len(held_out[key]) - size + 1), size) for key in args.languages}
    batches = {key: [collator(held_out[key][k : k + size]) for k in several] for key, several in starts.items()}
    conflict = hma.gradient_conflict(model, batches, per_layer=True, blocks=args.probes, progress=True)
    options = {"sparsity": args.sparsity, "steps": args.mask_steps, "progress": True}
    overlap = hma.mask_overlap(hma.learn_language_masks(model, batches, **options))

    found = pairs(conflict)
    result = {"arguments": asdict(args), "versions": VERSIONS, "command": shlex.join(["python", *sys.argv])}
    result |= {
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "seconds": round(time.perf_counter() - began),
    }
    result |= {"pairs": found, "gradient_conflict": conflict.to_dict(), "mask_overlap": overlap.to_dict()}
    result["over_time"] = {step: one.to_dict()["matrix"] for step, one in callback.history.items()}
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    callback.plot(output.with_suffix(".png"))
    print(*(f"{one['pair']:>12} {one['cosine']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for one in found), sep="\n")
    print(f"\n{overlap.to_markdown()}")


if __name__ == "__main__":
    torch.set_num_threads(1)  # models this small lose more to threads than they win
    main()
