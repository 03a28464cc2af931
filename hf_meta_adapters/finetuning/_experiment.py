"""A fine-tuning experiment from its settings to its files: what the fine-tuning recipes share."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from hf_meta_adapters._version import __version__
from hf_meta_adapters.data import load_language_datasets
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation import LanguageScores, Task, majority_baseline
from hf_meta_adapters.finetuning._finetune import FinetuningSettings, load_for_task
from hf_meta_adapters.finetuning._protocols import PROTOCOLS
from hf_meta_adapters.hub.manifest import read_manifest

__all__ = ["FinetuningArguments", "run_finetuning"]


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class FinetuningArguments:
    """The settings of a fine-tuning experiment; `parse_arguments` reads them from YAML and the command line."""

    model: str = field(
        default="", metadata=_help("Folder of a saved family (or of a model with one language).")
    )
    data: str = field(
        default="",
        metadata=_help("Folder with <language>/<split>.jsonl(.gz), or a name on the Hub."),
    )
    output_dir: str = field(default="outputs/finetuning", metadata=_help("Where the scores go."))
    protocol: str = field(
        default="zero-shot", metadata=_help('"within-language", "zero-shot" or "few-shot".')
    )
    source_language: str = field(
        default="en", metadata=_help("Whose labels zero-shot and few-shot train on.")
    )
    languages: list[str] = field(
        default_factory=list, metadata=_help("What is scored; default all of the model.")
    )
    shots: int = field(default=100, metadata=_help("Examples of each other language (few-shot)."))
    train: str = field(
        default="all",
        metadata=_help("head, adapters, shared, all or task_adapter: see `load_for_task`."),
    )
    train_split: str = field(default="train", metadata=_help("The split that is trained on."))
    test_split: str = field(default="test", metadata=_help("The split that is scored."))
    train_limit: int | None = field(
        default=None, metadata=_help("Training examples of a language at most.")
    )
    test_limit: int | None = field(
        default=None, metadata=_help("Test examples of a language at most.")
    )
    names: dict[str, str] = field(
        default_factory=dict, metadata=_help("Language → subset on the Hub (YAML only).")
    )
    id_prefixes: dict[str, str] = field(
        default_factory=dict, metadata=_help("Language → start of ids (YAML only).")
    )
    revision: str | None = field(
        default=None, metadata=_help("Branch or commit of the data on the Hub.")
    )
    learning_rate: float = field(default=5e-5, metadata=_help("Peak learning rate."))
    epochs: float = field(default=3.0, metadata=_help("Passes over the labelled data."))
    max_steps: int = field(default=-1, metadata=_help("Optimizer steps instead; -1 for epochs."))
    batch_size: int = field(default=32, metadata=_help("Rows in a step."))
    max_length: int | None = field(default=None, metadata=_help("Tokens in a row."))
    seed: int = field(default=0, metadata=_help("Seed of head, dropout and order."))


def run_finetuning(args: FinetuningArguments, task: Task, auto_class: Any) -> LanguageScores:
    """Load model and data, fine-tune and score by the protocol, and write `scores.json`, `scores.md` and `scores.png`.

    Args:
        args: The settings.
        task: The task.
        auto_class: The transformers class with the head of the task.

    Returns:
        The scores.

    Raises:
        ConfigurationError: If a setting cannot work.
        DataError: If data is missing or malformed.
        HubError: If the model is missing or damaged.
    """
    if args.protocol not in PROTOCOLS or not args.model or not args.data:
        raise ConfigurationError(
            f"`model` and `data` must be given, and `protocol` be one of {list(PROTOCOLS)}. Found"
            f" {args.model!r}, {args.data!r} and {args.protocol!r}. Write for example `--model"
            " outputs/quickstart/model --data DATA --protocol zero-shot`."
        )
    began = time.perf_counter()
    languages = args.languages or list(read_manifest(Path(args.model)).languages)
    source = [] if args.protocol == "within-language" else [args.source_language]
    labelled = (
        source if args.protocol == "zero-shot" else list(dict.fromkeys([*source, *languages]))
    )
    where: dict[str, Any] = {
        "names": args.names,
        "id_prefixes": args.id_prefixes,
        "revision": args.revision,
    }
    train = load_language_datasets(
        args.data, args.train_split, languages=labelled, limit=args.train_limit, **where
    )
    test = load_language_datasets(
        args.data, args.test_split, languages=languages, limit=args.test_limit, **where
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)

    def make_model() -> Any:
        transformers.set_seed(args.seed)  # the new head
        return load_for_task(args.model, auto_class, task, train=args.train)

    settings = FinetuningSettings(
        **{
            name: getattr(args, name)
            for name in ("learning_rate", "epochs", "max_steps", "batch_size", "max_length")
        },
        seed=args.seed,
        progress=True,
    )
    protocol = PROTOCOLS[args.protocol]
    if source:
        protocol = partial(protocol, source_language=args.source_language)
    if args.protocol == "few-shot":
        protocol = partial(protocol, shots=args.shots)
    scores = protocol(make_model, task, train, test, tokenizer, settings)
    floor = None
    if task.labels:
        floor = majority_baseline(task, train[(source or languages)[0]], test).values()
    _write(
        Path(args.output_dir),
        args,
        scores,
        {"majority": floor, "seconds": round(time.perf_counter() - began)},
    )
    return scores


def _write(
    folder: Path, args: FinetuningArguments, scores: LanguageScores, more: dict[str, Any]
) -> None:
    versions = {
        "hf_meta_adapters": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    record = {
        "arguments": asdict(args),
        "versions": versions,
        "machine": platform.machine(),
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({**record, **scores.to_dict()}, indent=2, ensure_ascii=False)
    (folder / "scores.json").write_text(f"{content}\n", encoding="utf-8")
    (folder / "scores.md").write_text(f"{scores.to_markdown()}\n", encoding="utf-8")
    scores.plot(folder / "scores.png")
