"""What does joint training cost each language, and what do meta-learned adapters give back?

Trains small masked language models on bundled verses in English, French, Russian and (low-resource)
Swahili: one per language, one for all, one for all with an adapter per language, and one whose
adapters are meta-learned. Scores them on the same test verses, in bits per masked character. θ
learns from the same number of verses of a language in all.

    python recipes/quickstart.py    # minutes on a CPU; report and pictures in outputs/quickstart; see --help
"""

from __future__ import annotations

import json
import platform
import shlex
import sys
import time
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
import transformers
from datasets import Dataset, concatenate_datasets
from transformers import DataCollatorForLanguageModeling, HfArgumentParser, set_seed

import hf_meta_adapters as hma
from hf_meta_adapters.pretraining import train_tokenizer
from hf_meta_adapters.study.cell import read_texts

LANGUAGES = ["en", "fr", "ru", "sw"]
DATA = Path(__file__).parent / "data"
VERSIONS = {library.__name__: library.__version__ for library in (hma, torch, transformers)}
ARMS = {
    "joint": None,
    "joint + adapters": "train",
    "meta adapters": "meta",
}  # arm → what its adapters learn from


@dataclass
class Arguments:
    """What can be set on the command line."""

    output_dir: str = field(
        default="outputs/quickstart", metadata={"help": "Where report and pictures go."}
    )
    steps: int = field(default=400, metadata={"help": "Optimizer steps of every model."})
    batch_size: int = field(default=8, metadata={"help": "Verses of each language in a step."})
    learning_rate: float = field(
        default=5e-3, metadata={"help": "Peak learning rate of all models."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of weights, batches and masks."})


def train(
    arm: str,
    languages: list[str],
    data: dict,
    collator: DataCollatorForLanguageModeling,
    args: Arguments,
):
    set_seed(args.seed)  # every arm starts from the same weights
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
    }
    # weights of a variance near 1 / width, no dropout: with the defaults, for large models and much
    # text, a model this small learns in so few steps how frequent words are, and nothing of their
    # neighbours
    sizes |= {
        "initializer_range": 0.1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    places = {
        "max_position_embeddings": 66,
        "type_vocab_size": 1,
        "vocab_size": len(collator.tokenizer),
    }
    base = transformers.XLMRobertaForMaskedLM(transformers.XLMRobertaConfig(**sizes, **places))
    update = ARMS.get(arm)
    config = hma.BottleneckConfig(bottleneck_size=16) if update else None
    model = hma.get_language_model(base, config, languages=languages)
    training = hma.MetaAdapterTrainingArguments(
        output_dir=f"{args.output_dir}/runs",
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        warmup_steps=args.steps // 10,
        adapter_update=update or "train",
        preset="fast",
        seed=args.seed,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
    )
    print(f"\n{arm} ({', '.join(languages)})", flush=True)
    meta = arm == "meta adapters"  # the others have its meta text to train on
    text = {
        key: [data[role][key] for role in (["train"] if meta else ["train", "meta"])]
        for key in languages
    }
    hma.MetaAdapterTrainer(
        model,
        training,
        train_dataset={key: concatenate_datasets(parts) for key, parts in text.items()},
        meta_dataset=data["meta"] if meta else None,
        data_collator=collator,
    ).train()
    return model.eval()


def main() -> None:
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    began, output = time.perf_counter(), Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    texts = {role: read_texts(DATA, role, LANGUAGES) for role in ("train", "meta", "test")}
    tokenizer = train_tokenizer(chain(*texts["train"].values()), vocabulary=2500, max_length=64)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)
    data = {
        role: {
            key: Dataset.from_dict(dict(tokenizer(lines, truncation=True)))
            for key, lines in several.items()
        }
        for role, several in texts.items()
    }
    test = {
        key: hma.masked_lm_features(tokenizer, texts["test"][key], language=key)
        for key in LANGUAGES
    }

    def score(model: hma.LanguageAdapterModel, key: str) -> torch.Tensor:  # of each verse
        found = hma.bits_per_character(model, test[key], language=key)
        return torch.tensor(found.bits / found.characters)

    mono = {key: score(train("mono", [key], data, collator, args), key) for key in LANGUAGES}
    arms = {arm: train(arm, LANGUAGES, data, collator, args) for arm in ARMS}
    report = hma.interference_report(
        {key: dict.fromkeys(ARMS, mono[key]) for key in LANGUAGES},
        {key: {arm: score(model, key) for arm, model in arms.items()} for key in LANGUAGES},
        higher_is_better=False,
        metric="bits per masked character",
        monolingual_examples_seen=args.steps * args.batch_size,
        joint_examples_seen=args.steps * args.batch_size,
    )
    report.plot(output / "interference.png")
    rows = {key: data["meta"][key].to_list() for key in LANGUAGES}
    batches = {
        key: [collator(rows[key][k : k + 32]) for k in range(0, 512, 32)] for key in LANGUAGES
    }
    conflict = hma.gradient_conflict(arms["joint"], batches)
    conflict.plot(output / "gradient_cosine.png")

    saved = arms["meta adapters"]
    saved.save_pretrained(output / "model")
    tokenizer.save_pretrained(output / "model")
    loaded = hma.LanguageAdapterModel.from_pretrained(output / "model")
    if not all(torch.equal(score(loaded, key), score(saved, key)) for key in LANGUAGES):
        sys.exit("The loaded model does not score as the saved one.")
    seconds = round(time.perf_counter() - began)
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "arguments": vars(args),
        "versions": VERSIONS,
    }
    result |= {"machine": platform.machine(), "seconds": seconds}
    result |= {"interference": report.to_dict(), "gradient_cosine": conflict.to_dict()}
    tables = f"{report.to_markdown()}\n\n![Interference](interference.png)\n\n{conflict.to_markdown()}\n\n"
    note = (
        "All models had the same text; the meta adapters saw some in their meta-gradient. One"
        f" seed, {seconds} s."
    )
    page = (
        f"# Joint training and adapters\n\n{tables}![Gradient"
        f" cosines](gradient_cosine.png)\n\n{note}\n"
    )
    for name, content in {
        "report.md": page,
        "report.json": json.dumps(result, indent=2) + "\n",
    }.items():
        (output / name).write_text(content)
    print(
        f"\n{report.to_markdown()}\n\n{note}\nSee {output / 'report.md'} and the pictures"
        " beside it."
    )


if __name__ == "__main__":
    torch.set_num_threads(1)  # models this small lose more to threads than they win
    main()
