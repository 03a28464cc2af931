"""What does joint training cost each language, and what do meta-learned adapters give back?

Trains small masked language models on bundled verses in English, French, Russian and (low-resource) Swahili: one model
per language, one for all, one for all with an adapter per language, and one whose adapters are meta-learned; then scores
them on the same test verses, in bits per masked character. Every model sees the same number of verses of a language.

    python recipes/quickstart.py                  # minutes on 2 CPU cores; report and pictures in outputs/quickstart
    python recipes/quickstart.py --steps 20       # a quick look
    python recipes/quickstart.py --preset paper   # Algorithm 1 as published: slower
"""

from __future__ import annotations

import gzip
import json
import platform
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    DataCollatorForLanguageModeling,
    HfArgumentParser,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    set_seed,
)

import hf_meta_adapters as hma

LANGUAGES = ["en", "fr", "ru", "sw"]
ROLES = ["train", "meta", "test"]
DATA = Path(__file__).parent / "data"
BARS = {"joint": None, "joint + adapters": "train", "meta adapters": "meta"}  # arm → what its adapters learn from


@dataclass
class Arguments:
    """What can be set on the command line."""

    output_dir: str = field(default="outputs/quickstart", metadata={"help": "Where report and pictures go."})
    steps: int = field(default=300, metadata={"help": "Optimizer steps of every model."})
    batch_size: int = field(default=16, metadata={"help": "Verses of each language in a step."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate of all models."})
    preset: str | None = field(default=None, metadata={"help": 'Meta-gradient: "paper", "fast", or the defaults.'})
    seed: int = field(default=0, metadata={"help": "Seed of weights, batches and masks."})


def read(language: str, role: str) -> list[str]:
    with gzip.open(DATA / language / f"{role}.txt.gz", "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=4000, special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = dict(zip(["bos_token", "pad_token", "eos_token", "unk_token", "mask_token"], special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> XLMRobertaForMaskedLM:
    set_seed(seed)  # every arm starts from the same weights
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=66, type_vocab_size=1, **sizes, **ids)
    return XLMRobertaForMaskedLM(config)


def train(
    arm: str, languages: list[str], data: dict[str, dict[str, Dataset]], tokenizer: PreTrainedTokenizerFast, args: Arguments
) -> hma.LanguageAdapterModel:
    learns = BARS.get(arm)
    config = hma.BottleneckConfig(bottleneck_size=32) if learns else None
    model = hma.get_language_model(make_model(tokenizer, args.seed), config, languages=languages)
    training = hma.MetaAdapterTrainingArguments(
        output_dir=f"{args.output_dir}/runs/{arm.replace(' ', '_')}_{'_'.join(languages)}",
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=args.steps // 10,
        preset=args.preset if learns == "meta" else None,
        adapter_update=None if learns == "meta" else "train",
        seed=args.seed,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
    )
    trainer = hma.MetaAdapterTrainer(
        model,
        training,
        train_dataset={key: data["train"][key] for key in languages},
        meta_dataset={key: data["meta"][key] for key in languages} if learns == "meta" else None,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
        processing_class=tokenizer,
    )
    print(f"\n{arm} ({', '.join(languages)})", flush=True)
    trainer.train()
    return model.eval()


def main() -> None:
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    began, output = time.perf_counter(), Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    texts = {role: {key: read(key, role) for key in LANGUAGES} for role in ROLES}
    tokenizer = train_tokenizer([text for key in LANGUAGES for text in texts["train"][key]])
    data = {
        role: {key: Dataset.from_dict(dict(tokenizer(several, truncation=True))) for key, several in by_language.items()}
        for role, by_language in texts.items()
    }
    test = {key: hma.masked_lm_features(tokenizer, texts["test"][key], language=key) for key in LANGUAGES}

    def score(model: hma.LanguageAdapterModel, key: str) -> torch.Tensor:
        found = hma.bits_per_character(model, test[key], language=key)
        return torch.tensor(found.bits / found.characters)

    alone = {key: score(train("mono", [key], data, tokenizer, args), key) for key in LANGUAGES}
    arms = {arm: train(arm, LANGUAGES, data, tokenizer, args) for arm in BARS}
    scores = {key: {arm: score(model, key) for arm, model in arms.items()} for key in LANGUAGES}
    report = hma.interference_report(
        {key: dict.fromkeys(BARS, alone[key]) for key in LANGUAGES},
        scores,
        higher_is_better=False,
        metric="bits per masked character",
        monolingual_examples_seen=args.steps * args.batch_size,
        joint_examples_seen=args.steps * args.batch_size,
    )
    report.plot(output / "interference.png")
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    batches = {
        key: [collate([data["meta"][key][row] for row in range(start, start + 32)]) for start in range(0, 512, 32)]
        for key in LANGUAGES
    }
    conflict = hma.gradient_conflict(arms["joint"], batches)
    conflict.plot(output / "gradient_cosine.png")

    arms["meta adapters"].save_pretrained(output / "model")
    tokenizer.save_pretrained(output / "model")
    loaded = hma.LanguageAdapterModel.from_pretrained(output / "model")
    same = all(torch.equal(score(loaded, key), scores[key]["meta adapters"]) for key in LANGUAGES)
    if not same:
        sys.exit("The loaded model does not score as the saved one did.")
    seconds = round(time.perf_counter() - began)
    versions = {"hf_meta_adapters": hma.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    facts = {"arguments": vars(args), "versions": versions, "machine": platform.platform(), "seconds": seconds}
    result = {**facts, "interference": report.to_dict(), "gradient_cosine": conflict.to_dict()}
    (output / "report.json").write_text(json.dumps(result, indent=2) + "\n")
    page = [
        "# What joint training costs, and what adapters give back",
        report.to_markdown(),
        "![interference](interference.png)",
        conflict.to_markdown(),
        "![gradient cosine](gradient_cosine.png)",
        f"Made by `{' '.join(['python', *sys.argv])}` in {seconds} seconds. The model in `model/` was saved, loaded, and "
        "scores the same.",
    ]
    (output / "report.md").write_text("\n\n".join(page) + "\n")
    print(f"\n{report.to_markdown()}\n\nSee {output / 'report.md'} and the pictures beside it. {seconds} seconds.")


if __name__ == "__main__":
    main()
