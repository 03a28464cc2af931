"""When does joint training cost a language most? Three factors of the paper, on bundled verses.

corpus size   A language learns jointly with the others, from 1/8, 1/2 or all of its verses.
similarity    A language learns jointly with one other, related or not.
capacity      All languages learn jointly, in models of several widths.

Each joint model is compared with a model of the language alone, of the same width and with the same
verses, that saw as many examples of it (`interference_report` refuses anything else), on the same
test verses, in bits per character.

Needs:    nothing but the package.
Takes:    five minutes on one core with --steps 200 --shares 0.125 1.0 --widths 32 128.
Writes:   one JSON file, and tables to the terminal.
Command:  hf-meta-adapters run interference_factors
              --output interference_factors.json
Override: --languages, --shares, --widths, --steps, --seeds 0 1 2 (one model each), see --help.
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from itertools import chain

import torch
import transformers
from tqdm import tqdm
from transformers import HfArgumentParser

import hf_meta_adapters as hma
from hf_meta_adapters.bundled.folders import verses_folder
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.pretraining import train_tokenizer
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.methods import pretrain
from hf_meta_adapters.study.model_sizes import small_sizes

DATA = verses_folder()
VERSIONS = {library.__name__: library.__version__ for library in (hma, torch, transformers)}


@dataclass
class Arguments:
    """What can be set on the command line."""

    output: str = field(
        default="outputs/interference_factors.json", metadata={"help": "File for the result."}
    )
    languages: list[str] = field(
        default_factory=lambda: ["en", "fr", "ru", "sw"],
        metadata={"help": "Languages of the verses."},
    )
    subsampled: str = field(
        default="fr", metadata={"help": "The language of the study of corpus size."}
    )
    target: str = field(
        default="fr", metadata={"help": "The language that is paired with each of the others."}
    )
    shares: list[float] = field(
        default_factory=lambda: [0.125, 0.5, 1.0],
        metadata={"help": "Shares of the verses of the subsampled language."},
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


@dataclass(frozen=True)
class Comparison:
    """Some languages in a joint model, against models of each of them alone."""

    joint: list[str]
    compared: list[str]
    width: int
    share: float = 1.0


def plan(args: Arguments) -> dict[str, Comparison]:
    """Name → comparison, one factor after the other."""
    everything, comparisons = args.languages, {}
    for share in args.shares:
        comparisons[f"corpus size {share:g}"] = Comparison(
            everything, [args.subsampled], args.width, share
        )

    for key in everything:
        if key != args.target:
            pair = Comparison([args.target, key], [args.target], args.width)
            comparisons[f"pair {args.target}–{key}"] = pair

    for width in args.widths:
        comparisons[f"width {width}"] = Comparison(everything, everything, width)

    return comparisons


class Models:
    """Trains and scores models; one that was trained before is not trained again."""

    def __init__(self, args: Arguments) -> None:
        self.args = args
        self.texts = read_texts(DATA, "train", args.languages)
        self.tokenizer = train_tokenizer(
            chain(*self.texts.values()), vocabulary=2500, max_length=64
        )

        # Masked once, so that every model is scored on the same tokens.
        self.tests = {
            key: hma.masked_lm_features(self.tokenizer, lines, language=key)
            for key, lines in read_texts(DATA, "test", args.languages).items()
        }
        self.trained: dict[tuple, dict[str, torch.Tensor]] = {}

    def scores(self, languages: list[str], width: int, share: float, seed: int) -> dict:
        """Language → bits per character of each test verse."""
        settings = (tuple(languages), width, share, seed)
        if settings not in self.trained:
            self.trained[settings] = self.train_and_score(languages, width, share, seed)

        return self.trained[settings]

    def train_and_score(self, languages: list[str], width: int, share: float, seed: int) -> dict:
        texts = {key: self.texts[key] for key in languages}
        if self.args.subsampled in texts:
            verses = texts[self.args.subsampled]
            texts[self.args.subsampled] = verses[: int(share * len(verses))]

        pretrained = pretrain(
            "joint" if len(languages) > 1 else "mono",
            texts,
            self.tokenizer,
            model_type="modernbert",
            sizes=small_sizes(width),
            steps=self.args.steps,
            seed=seed,
            mlm_probability=0.3,
            learning_rate=self.args.learning_rate * 64 / width,
            per_device_train_batch_size=self.args.batch_size,
        )

        scores = {}
        for key in languages:
            verses = hma.bits_per_character(pretrained.model, self.tests[key], language=key)
            scores[key] = torch.tensor(verses.bits / verses.characters)

        return scores

    def compare(self, comparison: Comparison):
        """The interference of the compared languages in the joint model, over all seeds."""
        # Language → the scores of one model a seed.
        joint: dict[str, list] = {key: [] for key in comparison.compared}
        alone: dict[str, list] = {key: [] for key in comparison.compared}
        for seed in self.args.seeds:
            how = (comparison.width, comparison.share, seed)
            together = self.scores(comparison.joint, *how)
            for key in comparison.compared:
                joint[key].append(together[key])
                alone[key].append(self.scores([key], *how)[key])

        # A step has as many verses of a language in every model.
        seen = self.args.steps * self.args.batch_size
        return hma.interference_report(
            {key: torch.stack(by_seed) for key, by_seed in alone.items()},
            {key: torch.stack(by_seed) for key, by_seed in joint.items()},
            higher_is_better=False,
            metric="bits per character",
            monolingual_examples_seen=seen,
            joint_examples_seen=seen,
        )


def main() -> None:
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    began = time.perf_counter()

    models = Models(args)
    reports = {}
    for name, comparison in tqdm(plan(args).items()):
        reports[name] = models.compare(comparison)

    result = {
        "arguments": asdict(args),
        "versions": VERSIONS,
        "command": written_command(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "models": len(models.trained),
        "seconds": round(time.perf_counter() - began),
        "studies": {name: report.to_dict() for name, report in reports.items()},
    }

    write_text(args.output, json.dumps(result, indent=1, ensure_ascii=False))

    tables = [f"### {name}\n\n{report.to_markdown()}\n" for name, report in reports.items()]
    print(*tables, sep="\n")


if __name__ == "__main__":
    torch.set_num_threads(1)  # models this small lose more to threads than they gain
    main()
