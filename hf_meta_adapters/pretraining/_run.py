"""Pretraining from its settings to a saved family: what the pretraining recipes share."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import transformers
from datasets import Dataset

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data import load_language_datasets, load_local_datasets
from hf_meta_adapters.evaluation import LanguageScores, evaluate_languages
from hf_meta_adapters.modeling.factory import get_language_model
from hf_meta_adapters.pretraining._pretraining_arguments import PretrainingArguments
from hf_meta_adapters.pretraining._tokenize import tokenize
from hf_meta_adapters.pretraining.from_scratch import new_model, train_tokenizer
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments
from hf_meta_adapters.training.trainer import MetaAdapterTrainer

__all__ = ["run_pretraining"]


def run_pretraining(
    args: PretrainingArguments, training: MetaAdapterTrainingArguments, auto_class: Any, task: str
) -> MetaAdapterTrainer:
    """Load model and text, train θ and every φ_l, and save the family, tokenizer included, to `output_dir`.

    With `eval_split` the bits per character of every language go to `scores.json` and `scores.md`
    there, and to the model card.

    Args:
        args: The model, the adapters and the text.
        training: The arguments of the Trainer.
        auto_class: The transformers class, such as `AutoModelForMaskedLM`.
        task: What is scored: "masked_lm" or "causal_lm".

    Returns:
        The Trainer, after training.

    Raises:
        ConfigurationError: If a setting cannot work.
        DataError: If data is missing or malformed.
    """
    texts = _texts(args, args.train_split, args.languages or None)
    held_out = _texts(args, args.eval_split, list(texts)) if args.eval_split else {}
    transformers.set_seed(training.seed)
    tokenizer, base = _pretrained(args, auto_class) if args.model else _new(args, auto_class, texts)
    model = get_language_model(
        base, args.adapter_config(), list(texts), share_adapter=args.share_adapter
    )
    rows = tokenize(texts, tokenizer, max_length=args.max_length, pack=args.pack)
    trainer = MetaAdapterTrainer(model, training, train_dataset=rows, processing_class=tokenizer)
    trainer.train(resume_from_checkpoint=args.resume or None)
    trainer.save_model(
        _internal_call=bool(held_out)
    )  # is published with its scores, where it gets some
    if held_out:
        if (
            training.should_save or trainer.is_fsdp_enabled
        ):  # parts of a model are evaluated together
            scores = evaluate_languages(model.eval(), task, held_out, processing_class=tokenizer)
            trainer.scores.append({**scores.to_dict(), "dataset": _dataset(args)})
            if training.should_save:
                _write(scores, Path(str(training.output_dir)))
        trainer.save_model()
    return trainer


def _dataset(args: PretrainingArguments) -> str:
    return "" if Path(args.data).is_dir() else args.data


def _write(scores: LanguageScores, folder: Path) -> None:
    (folder / "scores.json").write_text(
        json.dumps(scores.to_dict(), indent=2) + "\n", encoding="utf-8"
    )
    (folder / "scores.md").write_text(scores.to_markdown() + "\n", encoding="utf-8")
    print(scores.to_markdown())


def _texts(
    args: PretrainingArguments, split: str, languages: list[Language] | None
) -> dict[Language, Dataset]:
    if Path(args.data).is_dir():
        return load_local_datasets(args.data, split, languages=languages, limit=args.limit)
    where: dict[str, Any] = {"names": args.names, "revision": args.revision, "limit": args.limit}
    return load_language_datasets(
        args.data, split, languages=languages or list(args.names), **where
    )


def _pretrained(args: PretrainingArguments, auto_class: Any) -> tuple[Any, Any]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model, revision=args.model_revision)
    return tokenizer, auto_class.from_pretrained(args.model, revision=args.model_revision)


def _new(
    args: PretrainingArguments, auto_class: Any, texts: dict[Language, Dataset]
) -> tuple[Any, Any]:
    """A tokenizer trained on as many texts of each language, and a model with random weights."""
    fewest = min(len(own) for own in texts.values())
    parts = chain(*(own.select(range(fewest))["text"] for own in texts.values()))
    tokenizer = train_tokenizer(parts, vocabulary=args.vocabulary, max_length=args.max_length)
    return tokenizer, new_model(auto_class, args.model_type, args.sizes, tokenizer)
