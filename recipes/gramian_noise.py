"""How much do a batch's inner products of gradients say, and how much those of many steps?

Trains a small masked language model on bundled verses in four languages. Every --every steps, it
stops, takes the mean gradient of each language over many batches, and with it the weights that each
method of gradient surgery would choose if it knew these. It compares them with the weights that the
method chooses from the products of one batch per language (`surgery_gradients="keep"`), and from
their running mean ("lagged"). The error of weights w, where w* are those of the mean gradients ḡ:

    ‖Σ_l (w_l − w*_l) ḡ_l‖ / ‖Σ_l w*_l ḡ_l‖

Products of mean gradients are of two halves of the batches each, so that noise adds nothing to
them.

Needs:    the package with its extra surgery.
Takes:    about five minutes on one core.
Writes:   one JSON file, and a table to the terminal.
Command:  hf-meta-adapters run gramian_noise --output gramian_noise.json
Override: --seeds 0 1 2 3 4, --every 50, --batches 50 for less exact mean gradients, see --help.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import chain

import torch
import transformers
from torch import Tensor
from tqdm import tqdm
from transformers import DataCollatorForLanguageModeling, HfArgumentParser, set_seed

import hf_meta_adapters as hma
from hf_meta_adapters.bundled.folders import verses_folder
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.meta.surgery import Surgery
from hf_meta_adapters.meta.weightings import METHODS
from hf_meta_adapters.pretraining import new_model, train_tokenizer
from hf_meta_adapters.products.gram import gram
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.model_sizes import small_sizes

LANGUAGES = ["en", "fr", "ru", "sw"]
LIBRARIES = (hma, torch, transformers)


@dataclass
class Arguments:
    """What can be set on the command line."""

    output: str = field(default="outputs/gramian_noise.json", metadata={"help": "Result."})
    steps: int = field(default=400, metadata={"help": "Steps of training."})
    every: int = field(default=100, metadata={"help": "Steps from one comparison to the next."})
    batches: int = field(default=100, metadata={"help": "Of each language, for mean gradients."})
    draws: int = field(default=20, metadata={"help": "Single batches in each comparison."})
    batch_size: int = field(default=8, metadata={"help": "Verses of each language in a batch."})
    learning_rate: float = field(default=5e-3, metadata={"help": "Constant rate of AdamW."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Of all draws."})


class Run:
    """A model, its text, and the gradients of languages."""

    def __init__(self, args: Arguments, seed: int) -> None:
        texts = read_texts(verses_folder(), "train", LANGUAGES)
        tokenizer = train_tokenizer(chain(*texts.values()), vocabulary=2500, max_length=64)
        self.collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)
        self.rows = {
            key: [tokenizer(line, truncation=True) for line in texts[key]] for key in LANGUAGES
        }

        set_seed(seed)
        masked = transformers.AutoModelForMaskedLM
        base = new_model(masked, "modernbert", small_sizes(), tokenizer)
        self.model = hma.get_language_model(base, None, languages=LANGUAGES)
        self.shared = list(self.model.shared_parameters().values())
        self.generator = torch.Generator().manual_seed(seed)
        self.size = args.batch_size

    def gradients(self) -> list[Tensor]:
        """The gradient of θ of each language, from a batch of its own, as vectors."""
        found = []
        for key, rows in self.rows.items():
            places = torch.randint(len(rows), (self.size,), generator=self.generator)
            batch = self.collator([rows[place] for place in places.tolist()])
            loss = self.model(**batch, language=key).loss
            parts = torch.autograd.grad(loss, self.shared)
            found.append(torch.cat([part.flatten() for part in parts]))

        return found

    def mean_gradients(self, count: int) -> list[Tensor]:
        """The mean gradient of each language over many batches."""
        total = self.gradients()
        for _ in range(count - 1):
            for kept, news in zip(total, self.gradients(), strict=True):
                kept += news

        return [kept / count for kept in total]


def products_of_means(run: Run, count: int) -> Tensor:
    """⟨ḡ_i, ḡ_j⟩, each between two halves of the batches, and the nearest that are products."""
    halves = gram([*run.mean_gradients(count // 2), *run.mean_gradients(count // 2)])
    between = halves[: len(LANGUAGES), len(LANGUAGES) :]
    values, vectors = torch.linalg.eigh((between + between.T) / 2)
    return vectors * values.clamp_min(0) @ vectors.T


def error(weights: Tensor, right: Tensor, products: Tensor) -> float:
    """‖Σ_l (w_l − w*_l) ḡ_l‖ / ‖Σ_l w*_l ḡ_l‖."""
    off = weights - right
    return float((off @ products @ off / (right @ products @ right)).sqrt())


def compare(run: Run, surgeries: dict[str, Surgery], args: Arguments) -> dict[str, dict]:
    """Method → the errors of its weights, and of the mean, at this point of training."""
    products = products_of_means(run, args.batches)
    single = [gram(run.gradients()) for _ in range(args.draws)]
    even = torch.full((len(LANGUAGES),), 1 / len(LANGUAGES), dtype=torch.float64)

    compared = {}
    for name, surgery in surgeries.items():

        def weights(gramian: Tensor, of: Surgery = surgery) -> Tensor:
            return of.weights(LANGUAGES, gramian[None])[0]

        right = weights(products)
        one = [error(weights(gramian), right, products) for gramian in single]
        lagged = error(weights(surgery.expected(LANGUAGES, 1)[0]), right, products)
        compared[name] = {"one batch": statistics.median(one), "running mean": lagged}
        compared[name]["mean of gradients"] = error(even, right, products)

    return compared


def train(args: Arguments, seed: int) -> list[dict[str, dict]]:
    """The comparisons of one run."""
    run = Run(args, seed)
    surgeries = {name: Surgery(name, gradients="lagged", seed=seed) for name in METHODS}
    optimizer = torch.optim.AdamW(run.shared, lr=args.learning_rate)

    comparisons = []
    for step in tqdm(range(1, args.steps + 1), desc=f"seed {seed}"):
        gradients = run.gradients()
        for surgery in surgeries.values():
            measured = surgery.measures(LANGUAGES, 1)
            surgery.observe(LANGUAGES, gram(gradients)[None]) if measured else surgery.skip()

        mean = sum(gradients) / len(gradients)
        sizes = [parameter.numel() for parameter in run.shared]
        for parameter, part in zip(run.shared, mean.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)

        optimizer.step()
        if step % args.every == 0:
            comparisons.append(compare(run, surgeries, args))

    return comparisons


def main() -> None:
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    began = time.process_time()
    comparisons = list(chain(*(train(args, seed) for seed in args.seeds)))

    rows = []
    print("| method | one batch | running mean | mean of gradients |\n|---|---:|---:|---:|")
    for name in METHODS:
        errors = defaultdict(list)
        for comparison in comparisons:
            for source, value in comparison[name].items():
                errors[source].append(value)

        median = {source: statistics.median(values) for source, values in errors.items()}
        rows.append({"method": name, "median": median, "errors": errors})
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in median.values()) + " |")

    result = {
        "command": written_command(),
        "arguments": vars(args),
        "versions": {each.__name__: each.__version__ for each in LIBRARIES},
        "hardware": f"{platform.machine()}, one core",
        "seconds": round(time.process_time() - began),
        "rows": rows,
    }
    write_text(args.output, json.dumps(result, indent=1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
