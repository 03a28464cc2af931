"""When does joint training cost a language most? Three factors of the paper, one study each, on bundled verses.

corpus size   A language learns jointly with the others, from 1/8, 1/4, ... or all of its verses.
similarity    A language learns jointly with one other, related or not.
capacity      All languages learn jointly, in models of several widths.

Each joint model is compared with a model of the language alone, of the same width and with the same
verses, that saw as many examples of it (`interference_report` refuses anything else), on the same
test verses, in bits per character.

    python recipes/interference_factors.py --output recipes/results/interference_factors.json    # see --help
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import tqdm
from transformers import HfArgumentParser

import hf_meta_adapters as hma
from hf_meta_adapters.pretraining import train_tokenizer
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.methods import pretrain, small_sizes

DATA = Path(__file__).parent / "data"
VERSIONS = {library.__name__: library.__version__ for library in (hma, torch, transformers)}


@dataclass
class Arguments:
    """What can be set on the command line."""

    output: str = field(
        default="outputs/interference_factors.json", metadata={"help": "Where the result goes."}
    )
    languages: list[str] = field(
        default_factory=lambda: ["en", "fr", "ru", "sw"], metadata={"help": "Of the verses."}
    )
    subsampled: str = field(
        default="fr", metadata={"help": "The language of the study of corpus size."}
    )
    target: str = field(
        default="fr", metadata={"help": "The language that is paired with each of the others."}
    )
    shares: list[float] = field(
        default_factory=lambda: [0.125, 0.5, 1.0], metadata={"help": "Of its verses."}
    )
    widths: list[int] = field(
        default_factory=lambda: [32, 64, 128], metadata={"help": "Hidden sizes."}
    )
    width: int = field(default=64, metadata={"help": "Hidden size in the other studies."})
    steps: int = field(default=250, metadata={"help": "Optimizer steps of every model."})
    batch_size: int = field(default=12, metadata={"help": "Verses of each language in a step."})
    learning_rate: float = field(
        default=8e-3, metadata={"help": "Peak learning rate at a width of 64; ∝ 1 / width."}
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "One model each."})


class Study:
    """Trains and scores models; one that was trained before is not trained again."""

    def __init__(self, args: Arguments) -> None:
        self.args, self.models_trained = args, 0
        self.texts = read_texts(DATA, "train", args.languages)
        self.tokenizer = train_tokenizer(
            chain(*self.texts.values()), vocabulary=2500, max_length=64
        )
        tests = read_texts(DATA, "test", args.languages)
        self.tests = {
            key: hma.masked_lm_features(self.tokenizer, lines, language=key)
            for key, lines in tests.items()
        }
        self.scores = cache(self.scores)  # type: ignore[method-assign]

    def scores(
        self, languages: tuple[str, ...], width: int, share: float, seed: int
    ) -> dict[str, torch.Tensor]:
        """Bits per character of each test verse; `share` of the verses of the subsampled language are learned from."""
        args = self.args
        shares = {key: share if key == args.subsampled else 1.0 for key in languages}
        made = pretrain(
            "joint" if len(languages) > 1 else "mono",
            {key: self.texts[key][: int(shares[key] * len(self.texts[key]))] for key in languages},
            self.tokenizer,
            model_type="modernbert",
            sizes=small_sizes(width),
            steps=args.steps,
            seed=seed,
            mlm_probability=0.3,
            learning_rate=args.learning_rate * 64 / width,
            per_device_train_batch_size=args.batch_size,
        )
        self.models_trained += 1
        found = {
            key: hma.bits_per_character(made.model, self.tests[key], language=key)
            for key in languages
        }
        return {key: torch.tensor(one.bits / one.characters) for key, one in found.items()}

    def compare(
        self, joint: Iterable[str], of: Iterable[str], width: int | None = None, share: float = 1.0
    ) -> Any:
        """The interference of languages `of` in a joint model of languages `joint`."""
        width, seeds, seen = (
            width or self.args.width,
            self.args.seeds,
            self.args.steps * self.args.batch_size,
        )
        together = [self.scores(tuple(joint), width, share, seed) for seed in seeds]
        alone = {
            key: [self.scores((key,), width, share, seed)[key] for seed in seeds] for key in of
        }
        return hma.interference_report(
            {key: torch.stack(values) for key, values in alone.items()},
            {key: torch.stack([one[key] for one in together]) for key in of},
            higher_is_better=False,
            metric="bits per character",
            monolingual_examples_seen=seen,
            joint_examples_seen=seen,
        )


def main() -> None:
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    began, everything = time.perf_counter(), args.languages
    study = Study(args)
    plan = {
        f"corpus size {share:g}": {"of": [args.subsampled], "share": share} for share in args.shares
    }
    plan |= {
        f"pair {args.target}–{key}": {"joint": [args.target, key], "of": [args.target]}
        for key in everything
        if key != args.target
    }
    plan |= {f"width {width}": {"of": everything, "width": width} for width in args.widths}
    found = {
        name: study.compare(**{"joint": everything, **given}) for name, given in tqdm(plan.items())
    }
    result = {
        "arguments": asdict(args),
        "versions": VERSIONS,
        "command": shlex.join(["python", *sys.argv]),
    }
    result |= {
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "models": study.models_trained,
    }
    result |= {
        "seconds": round(time.perf_counter() - began),
        "studies": {k: one.to_dict() for k, one in found.items()},
    }
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    Path(args.output).write_text(
        json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    print(*(f"### {name}\n\n{one.to_markdown()}\n" for name, one in found.items()), sep="\n")


if __name__ == "__main__":
    torch.set_num_threads(1)  # models this small lose more to threads than they win
    main()
