"""How close is each setting of the outer step to the exact gradient of the paper?

In a learned state, on real text: takes a saved family (of the recipe quickstart: run that first),
draws batches of the bundled verses, and compares every setting, on the same batches and dropout
masks, with `exact` and a look-ahead per language. *Lagged* has the mean validation gradient of
earlier steps in the place of its own. With the next step as look-ahead, the exact gradient is that
through the step of AdamW, after steps on other batches. The noise of the text, which is the cosine
between exact gradients of two draws of batches, stands next to it.

Needs:    a saved family of a masked language model, with its tokenizer.
Takes:    minutes on one core.
Writes:   one JSON file, and a table to the terminal.
Command:  hf-meta-adapters run benchmark_fidelity
              --output benchmark_fidelity_cpu.json
Override: --model FOLDER --inner_learning_rates 0.01 0.1 --draws 3, see --help.
"""

import json
import platform
import statistics
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
import transformers
from tqdm import tqdm

import hf_meta_adapters as hma
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.lagged_fidelity import LaggedFidelity
from hf_meta_adapters.study.next_fidelity import cosine, flat_gradients, next_fidelity

EACH = {"lookahead": "per_language"}
EXACT = {**EACH, "meta_gradient": "exact"}
DRAWN = {**EXACT, "meta_languages_per_step": 2}
ONE_SIDED = {"finite_difference_scheme": "one_sided"}
SETTINGS = {
    "fast": {"preset": "fast"},
    "fast, half the rows": {"preset": "fast", "mixed_rows": 0.5},
    "fast, a quarter of the rows": {"preset": "fast", "mixed_rows": 0.25},
    "fast, half the languages": {"preset": "fast", "mixed_languages": 0.5},
    "default": {},
    "drawn, one-sided": {**EACH, **ONE_SIDED, "meta_languages_per_step": 2},
    "per language, one-sided": {**EACH, **ONE_SIDED},
    "per language, central": EACH,
    "exact, shared look-ahead": {"meta_gradient": "exact"},
    "exact, no look-ahead": {"meta_gradient": "exact", "lookahead": "none"},
    "exact, per language, drawn": DRAWN,
    "first order": {**EACH, "meta_gradient": "first_order"},
}
NEXT = {
    "next": ONE_SIDED,
    "next, half the rows": {**ONE_SIDED, "mixed_rows": 0.5},
    "next, a quarter of the rows": {**ONE_SIDED, "mixed_rows": 0.25},
    "next, half the languages": {**ONE_SIDED, "mixed_languages": 0.5},
}


def bf16():
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16)


RADII = {f"radius {r:g}": {"finite_difference_radius": r} for r in (1e-5, 1e-4, 1e-3, 0.01, 0.1)}
RADII |= {"automatic": {}, "automatic, bf16 autocast": {"autocast": bf16}}


@dataclass
class Arguments:
    """What can be set on the command line."""

    model: str = field(
        default="outputs/quickstart/model", metadata={"help": "A saved family, with its tokenizer."}
    )
    output: str = field(
        default="outputs/benchmark_fidelity.json", metadata={"help": "File for the result."}
    )
    inner_learning_rates: list[float] = field(
        default_factory=lambda: [0.001, 0.01, 0.1, 1.0], metadata={"help": "β."}
    )
    learning_rates: list[float] = field(
        default_factory=lambda: [1e-3, 5e-3], metadata={"help": "Rates of AdamW, for `next`."}
    )
    draws: int = field(default=6, metadata={"help": "Draws of batches."})
    batch_size: int = field(default=12, metadata={"help": "Verses per language and role."})
    language_draws: int = field(
        default=16, metadata={"help": "Draws of languages, whose mean shows the bias."}
    )


def same_masks(model, batch: dict) -> torch.Tensor:
    """The loss, with dropout masks that depend on the batch alone, not on the order of passes."""
    torch.manual_seed(int(batch["input_ids"].sum()))
    return model(**batch).loss


def batch(verses: list[str], tokenizer, collator) -> dict[str, torch.Tensor]:
    rows = tokenizer(verses, truncation=True)["input_ids"]
    return collator([{"input_ids": row} for row in rows])


def compare(
    model, batches: tuple[dict, dict], rate: float, draw: int, language_draws: int
) -> tuple[dict[str, float], torch.Tensor]:
    """Setting → cosine to the exact gradient, and that gradient."""

    def step(seed: int = draw, **options) -> hma.MetaGradients:
        how = {"inner_learning_rate": rate, "loss_function": same_masks}
        return hma.meta_step(model, *batches, seed=seed, **how, **options)

    exact = step(**EXACT)
    truth, indirect = flat_gradients(exact.language), flat_gradients(exact.indirect)

    cosines = {}
    for name, options in SETTINGS.items():
        cosines[name] = cosine(flat_gradients(step(**options).language), truth)

    for name in ("fast", "default"):
        under_autocast = step(**SETTINGS[name], autocast=bf16)
        cosines[f"{name}, bf16 autocast"] = cosine(flat_gradients(under_autocast.language), truth)

    # Drawing validation languages is unbiased: the mean of many draws must point to the truth.
    drawn = [flat_gradients(step(seed, **DRAWN).language) for seed in range(language_draws)]
    name = f"exact, per language, mean of {language_draws} drawn"
    cosines[name] = cosine(torch.stack(drawn).mean(0), truth)

    # Of the second-order part alone, which is all that a radius can spoil.
    for scheme in ("one_sided", "central"):
        for name, options in RADII.items():
            approximate = step(**EACH, finite_difference_scheme=scheme, **options).indirect
            cosines[f"indirect part, {scheme}, {name}"] = cosine(
                flat_gradients(approximate), indirect
            )

    cosines["indirect norm / direct norm"] = float(exact.meter.ratio)
    return cosines, truth


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
    text = {role: read_texts("verses", role, model.languages) for role in ("train", "meta")}

    def batches(role: str, draw: int) -> dict[str, dict]:
        part = slice(draw * args.batch_size, (draw + 1) * args.batch_size)
        return {key: batch(rows[part], tokenizer, collator) for key, rows in text[role].items()}

    # Learning rate → setting → one cosine a draw; and the exact gradient of every draw.
    values: dict[float, dict[str, list[float]]] = {rate: {} for rate in args.inner_learning_rates}
    truths: dict[float, list[torch.Tensor]] = {rate: [] for rate in args.inner_learning_rates}
    next_values: dict[tuple[float, str], list[float]] = {}
    lagged = LaggedFidelity(same_masks)
    for draw in tqdm(range(args.draws), desc="draws"):
        transformers.set_seed(draw)
        train, meta = batches("train", draw), batches("meta", draw)

        for rate in args.inner_learning_rates:
            cosines, truth = compare(model, (train, meta), rate, draw, args.language_draws)
            cosines |= lagged(model, train, meta, rate, truth)
            truths[rate].append(truth)
            for name, value in cosines.items():
                values[rate].setdefault(name, []).append(value)

        steps = [batches("train", (draw + number) % args.draws) for number in range(6)]
        for rate in args.learning_rates:
            how = {"learning_rate": rate, "loss_function": same_masks, "seed": draw}
            for name, value in next_fidelity(model, steps, NEXT, **how).items():
                next_values.setdefault((rate, name), []).append(value)

    for rate, draws in truths.items():
        values[rate]["two draws of batches, exact"] = [cosine(a, b) for a, b in pairwise(draws)]

    result = {"arguments": vars(args), "command": written_command(), "hardware": platform.machine()}
    result["versions"] = {lib.__name__: lib.__version__ for lib in (hma, torch, transformers)}
    result["rows"] = [
        {"inner_learning_rate": rate, "setting": name, **summary(several)}
        for rate, by_name in values.items()
        for name, several in by_name.items()
    ]
    result["next_rows"] = [
        {"learning_rate": rate, "setting": name, **summary(own)}
        for (rate, name), own in next_values.items()
    ]
    write_text(args.output, json.dumps(result, indent=1))

    print("| rate | setting | median | worst |\n|---:|---|---:|---:|")
    for row in [*result["rows"], *result["next_rows"]]:
        rate, name, *numbers = row.values()
        print("| {:g} | {} | {:.4f} | {:.4f} |".format(rate, name, *numbers))


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "worst": min(values)}


if __name__ == "__main__":
    torch.set_num_threads(1)  # models this small lose more to threads than they gain
    main()
