"""How close is each setting of the outer step to the exact gradient of the paper, in a learned state, on real text?

Takes a saved family (of the quickstart: `make quickstart` first), draws batches of the bundled
verses, and compares every setting on the same batches and dropout masks with `exact` and a
look-ahead per language. The noise of the text, the cosine between exact gradients of two draws of
batches, is given beside it.

    python recipes/benchmark_fidelity.py --output recipes/results/benchmark_fidelity_cpu.json    # see --help
"""

import gzip
import json
import platform
import statistics
import sys
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import torch
import transformers
from tqdm import tqdm

import hf_meta_adapters as hma

EACH = {"lookahead": "per_language"}
ONE_SIDED = {"finite_difference_scheme": "one_sided"}
SETTINGS = {
    "fast": {"preset": "fast"},
    "default": {},
    "drawn, one-sided": {**EACH, **ONE_SIDED, "meta_languages_per_step": 2},
    "per language, one-sided": {**EACH, **ONE_SIDED},
    "per language, central": EACH,
    "exact, shared look-ahead": {"meta_gradient": "exact"},
    "exact, no look-ahead": {"meta_gradient": "exact", "lookahead": "none"},
    "exact, per language, drawn": {**EACH, "meta_gradient": "exact", "meta_languages_per_step": 2},
    "first order": {**EACH, "meta_gradient": "first_order"},
}
BF16 = {
    "autocast": lambda: torch.autocast(
        "cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16
    )
}
RADII = {
    f"radius {size:g}": {"finite_difference_radius": size}
    for size in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
}
RADII |= {"automatic": {}, "automatic, bf16 autocast": BF16}


@dataclass
class Arguments:
    """What can be set on the command line."""

    model: str = field(
        default="outputs/quickstart/model", metadata={"help": "A saved family, with its tokenizer."}
    )
    output: str = field(
        default="outputs/benchmark_fidelity.json", metadata={"help": "Where the result goes."}
    )
    inner_learning_rates: list[float] = field(
        default_factory=lambda: [0.001, 0.01, 0.1, 1.0], metadata={"help": "β."}
    )
    draws: int = field(default=6, metadata={"help": "Draws of batches."})
    batch_size: int = field(default=12, metadata={"help": "Verses per language and role."})
    language_draws: int = field(
        default=16, metadata={"help": "Draws of languages, whose mean shows the bias."}
    )


def read(language: str, role: str) -> list[str]:
    path = Path(__file__).parent / "data" / language / f"{role}.txt.gz"
    return gzip.open(path, "rt", encoding="utf-8").read().splitlines()


def flat(gradients: dict[str, dict[str, torch.Tensor]]) -> torch.Tensor:
    return torch.cat(
        [entry.double().flatten() for key in gradients for entry in gradients[key].values()]
    )


def cosine(left: torch.Tensor, right: torch.Tensor) -> float:
    return torch.cosine_similarity(left, right, dim=0).item()


def compare(
    model, batches: tuple[dict, dict], rate: float, args: Arguments
) -> tuple[dict[str, float], torch.Tensor]:
    def loss(model, batch: dict) -> torch.Tensor:
        torch.manual_seed(
            int(batch["input_ids"].sum())
        )  # the same dropout masks, whatever the order of evaluation
        return model(**batch).loss

    def step(seed: int = 0, **options) -> hma.MetaGradients:
        return hma.meta_step(
            model, *batches, inner_learning_rate=rate, seed=seed, loss_function=loss, **options
        )

    exact = step(**EACH, meta_gradient="exact")
    truth, indirect = flat(exact.language), flat(exact.indirect)
    found = {
        name: cosine(flat(step(**options).language), truth) for name, options in SETTINGS.items()
    }
    for name in ("fast", "default"):
        found[f"{name}, bf16 autocast"] = cosine(
            flat(step(**SETTINGS[name], **BF16).language), truth
        )
    drawn = SETTINGS["exact, per language, drawn"]
    mean = torch.stack(
        [flat(step(seed, **drawn).language) for seed in range(args.language_draws)]
    ).mean(0)
    found[f"exact, per language, mean of {args.language_draws} drawn"] = cosine(mean, truth)
    for scheme, (radius, given) in product(("one_sided", "central"), RADII.items()):
        # of the second-order part alone, which is all that a radius can spoil
        part = step(**EACH, finite_difference_scheme=scheme, **given).indirect
        found[f"indirect part, {scheme}, {radius}"] = cosine(flat(part), indirect)
    return {**found, "indirect norm / direct norm": float(exact.meter.ratio)}, truth


def main() -> None:
    (args,) = transformers.HfArgumentParser(Arguments).parse_args_into_dataclasses()
    if not Path(args.model).is_dir():
        sys.exit(
            f"`--model` must be the folder of a saved family. Found no {args.model}. `make"
            " quickstart` makes one."
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = hma.LanguageAdapterModel.from_pretrained(args.model).train()
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    text = {role: {key: read(key, role) for key in model.languages} for role in ("train", "meta")}

    def batch(role: str, key: str, draw: int) -> dict:
        lines = text[role][key][draw * args.batch_size :][: args.batch_size]
        return collator(
            [{"input_ids": ids} for ids in tokenizer(lines, truncation=True)["input_ids"]]
        )

    found: dict[float, dict[str, list[float]]] = {rate: {} for rate in args.inner_learning_rates}
    truths: dict[float, list[torch.Tensor]] = {rate: [] for rate in args.inner_learning_rates}
    for draw in tqdm(range(args.draws), desc="draws"):
        transformers.set_seed(draw)
        batches = tuple({key: batch(role, key, draw) for key in model.languages} for role in text)
        for rate in args.inner_learning_rates:
            values, truth = compare(model, batches, rate, args)
            truths[rate].append(truth)
            for name, value in values.items():
                found[rate].setdefault(name, []).append(value)
    for rate, several in truths.items():
        found[rate]["two draws of batches, exact"] = [
            cosine(*several[k : k + 2]) for k in range(len(several) - 1)
        ]

    result = {"arguments": vars(args), "command": sys.argv, "hardware": platform.machine()}
    result["versions"] = {
        library.__name__: library.__version__ for library in (hma, torch, transformers)
    }
    result["rows"] = [
        {
            "inner_learning_rate": rate,
            "setting": name,
            "median": statistics.median(values),
            "worst": min(values),
        }
        for rate in found
        for name, values in found[rate].items()
    ]
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    Path(args.output).write_text(json.dumps(result, indent=1) + "\n")
    print("| β | setting | median | worst |", "|---:|---|---:|---:|", sep="\n")
    for row in result["rows"]:
        print("| {inner_learning_rate:g} | {setting} | {median:.4f} | {worst:.4f} |".format(**row))


if __name__ == "__main__":
    torch.set_num_threads(1)  # models this small lose more to threads than they win
    main()
