"""What does joint training cost each language, and what do meta-learned adapters give back?

Trains small masked language models on bundled verses in English, French, Russian and (low-resource)
Swahili: one per language, one for all, one for all with an adapter per language, and one whose
adapters are meta-learned. Scores them on the same test verses, in bits per masked character. θ
learns from the same number of verses of a language in all.

Needs:    nothing but the package with its extra plots.
Takes:    minutes on a CPU.
Writes:   to --output_dir: report.md, report.json, pictures, and in model/ the family with
          meta-learned adapters.
Command:  hf-meta-adapters run quickstart
Override: --steps 1000 --batch_size 16 --learning_rate 3e-3 --seed 1 --output_dir FOLDER
"""

from __future__ import annotations

import json
import platform
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
from hf_meta_adapters.bundled.folders import verses_folder
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.pretraining import train_tokenizer
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.cell import read_texts

LANGUAGES = ["en", "fr", "ru", "sw"]

# Arm → what its adapters learn from; `None` for a model without adapters.
ARMS = {"joint": None, "joint + adapters": "train", "meta adapters": "meta"}


@dataclass
class Arguments:
    """What can be set on the command line."""

    output_dir: str = field(default="outputs/quickstart", metadata={"help": "Where to write."})
    steps: int = field(default=400, metadata={"help": "Optimizer steps of every model."})
    batch_size: int = field(default=8, metadata={"help": "Verses of each language in a step."})
    learning_rate: float = field(default=5e-3, metadata={"help": "Peak rate of all models."})
    seed: int = field(default=0, metadata={"help": "Seed of weights, batches and masks."})


def new_model(arm: str, languages: list[str], vocabulary: int, seed: int):
    """A small XLM-R with random weights, and in most arms an adapter for each language."""
    # The weights begin with a variance near 1 / width, and there is no dropout. With the defaults,
    # which are for large models and much text, a model this small learns in so few steps how
    # frequent words are, and nothing of their neighbours.
    config = transformers.XLMRobertaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        initializer_range=0.1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=66,
        type_vocab_size=1,
        vocab_size=vocabulary,
    )

    # Every arm starts from the same weights.
    set_seed(seed)
    base = transformers.XLMRobertaForMaskedLM(config)

    adapter = hma.BottleneckConfig(bottleneck_size=16) if ARMS.get(arm) else None
    return hma.get_language_model(base, adapter, languages=languages)


class Bar(transformers.ProgressCallback):
    """Shows how far a training is, without the line of settings and times at its end."""

    def on_log(self, *_: object, **__: object) -> None:
        """Print nothing."""


def train(arm: str, languages: list[str], data: dict, collator, args: Arguments):
    """Train the model of one arm (or "mono") on some languages."""
    print(f"\nTraining: {arm} ({', '.join(languages)})", flush=True)
    model = new_model(arm, languages, len(collator.tokenizer), args.seed)

    training = hma.MetaAdapterTrainingArguments(
        output_dir=f"{args.output_dir}/runs",
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        warmup_steps=args.steps // 10,
        adapter_update=ARMS.get(arm) or "train",
        preset="fast",
        seed=args.seed,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
    )

    # All arms have the same text. The meta-gradient needs some that θ does not train on; the other
    # arms train on it.
    datasets = {"train_dataset": data["train"], "meta_dataset": data["meta"]}
    if arm != "meta adapters":
        both = {key: (data["train"][key], data["meta"][key]) for key in languages}
        datasets = {"train_dataset": {key: concatenate_datasets(both[key]) for key in both}}

    trainer = hma.MetaAdapterTrainer(model, training, data_collator=collator, **datasets)
    trainer.remove_callback(transformers.ProgressCallback)
    trainer.add_callback(Bar)
    trainer.train()
    return model.eval()


def interference(mono: dict, scores: dict, args: Arguments):
    """What each arm that was scored costs a language, against its monolingual model."""
    return hma.interference_report(
        {key: dict.fromkeys(scores, mono[key]) for key in LANGUAGES},
        {key: {arm: scores[arm][key] for arm in scores} for key in LANGUAGES},
        higher_is_better=False,
        metric="bits per masked character",
        monolingual_examples_seen=args.steps * args.batch_size,
        joint_examples_seen=args.steps * args.batch_size,
    )


def write_report(output: Path, args: Arguments, report, conflict, *, seconds: int) -> None:
    result = {
        "command": written_command(),
        "arguments": vars(args),
        "versions": {each.__name__: each.__version__ for each in (hma, torch, transformers)},
        "machine": platform.machine(),
        "seconds": seconds,
        "interference": report.to_dict(),
        "gradient_cosine": conflict.to_dict(),
    }
    write_text(output / "report.json", json.dumps(result, indent=2))

    note = f"One seed, {seconds} s. The meta adapters saw some text in their meta-gradient alone."
    first = [report.to_markdown(), "![Interference](interference.png)"]
    second = [conflict.to_markdown(), "![Gradient cosines](gradient_cosine.png)"]
    parts = ["# Joint training and adapters", *first, *second, note]
    write_text(output / "report.md", "\n\n".join(parts))

    print(f"\n{note} See {output / 'report.md'} and the pictures beside it.")


def main() -> None:
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    began = time.perf_counter()
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)

    # Texts: role → language → verses. The roles share no verse, and are split by chapters.
    texts = {
        role: read_texts(verses_folder(), role, LANGUAGES) for role in ("train", "meta", "test")
    }

    tokenizer = train_tokenizer(chain(*texts["train"].values()), vocabulary=2500, max_length=64)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)

    data: dict[str, dict[str, Dataset]] = {"train": {}, "meta": {}}
    for role, datasets in data.items():
        for key, verses in texts[role].items():
            datasets[key] = Dataset.from_dict(dict(tokenizer(verses, truncation=True)))

    # Masked once, so that every model is scored on the same tokens.
    test = {
        key: hma.masked_lm_features(tokenizer, verses, language=key)
        for key, verses in texts["test"].items()
    }

    def score(model: hma.LanguageAdapterModel, key: str) -> torch.Tensor:
        """Bits per masked character of each test verse."""
        verses = hma.bits_per_character(model, test[key], language=key)
        return torch.tensor(verses.bits / verses.characters)

    # Models: one for each language, then one for all of them in every arm.
    print(f"Seven models of {args.steps} steps; the first comparison comes after the fifth.")
    mono = {}
    for key in LANGUAGES:
        mono[key] = score(train("mono", [key], data, collator, args), key)
        print(f"{key} on its own: {mono[key].mean():.3f} bits per masked character of a verse")

    models, scores = {}, {}
    for arm in ARMS:
        models[arm] = train(arm, LANGUAGES, data, collator, args)
        scores[arm] = {key: score(models[arm], key) for key in LANGUAGES}
        report = interference(mono, scores, args)
        print(f"\n{report.to_markdown()}", flush=True)
    report.plot(output / "interference.png")

    # Conflict: cosines between the gradients of languages, from 16 batches of 32 verses of each.
    batches: dict[str, list] = {}
    for key in LANGUAGES:
        rows = data["meta"][key].to_list()
        batches[key] = [collator(rows[start : start + 32]) for start in range(0, 512, 32)]
    conflict = hma.gradient_conflict(models["joint"], batches)
    conflict.plot(output / "gradient_cosine.png")

    # The family: saved, loaded, and compared.
    saved = models["meta adapters"]
    saved.save_pretrained(output / "model")
    tokenizer.save_pretrained(output / "model")
    loaded = hma.LanguageAdapterModel.from_pretrained(output / "model")
    if not all(torch.equal(score(loaded, key), score(saved, key)) for key in LANGUAGES):
        sys.exit("The loaded model does not score as the saved one.")

    write_report(output, args, report, conflict, seconds=round(time.perf_counter() - began))


if __name__ == "__main__":
    torch.set_num_threads(1)  # models this small lose more to threads than they gain
    main()
