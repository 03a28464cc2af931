"""Look for interference in a model: whose gradients conflict, where, which weights are whose, and what to do about it.

MODEL is a folder that `save_pretrained` of this package wrote, or any masked or causal language
model of transformers (a folder, or a name on the Hub). TEXTS is a folder with a file per language,
a text a line: en.txt, sw.txt.gz, …; best of the domain that the model learns from, but not what it
learned from. `--monolingual` names a folder with a model of each language alone (.../sw): what
joint training costs is then reported, too.

    python recipes/diagnose.py MODEL TEXTS    # writes outputs/diagnose/report.html, .md, .json and pictures; see --help
"""

from __future__ import annotations

import argparse
import gzip
import platform
import random
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, DataCollatorForLanguageModeling

import hf_meta_adapters as hma
from hf_meta_adapters.diagnostics import DiagnosticReport, ReportSection

LARGE = 30_000_000  # parameters from which on gradients are projected
ABOUT = {
    "scores": "How well the model predicts each language.",
    "interference": (
        "This model against one of each language alone. Whether both saw as much text is not known"
        " here."
    ),
    "conflict": (
        "Cosines between the gradients of languages. Below 0: what helps one harms the other. Noise"
        " lowers all, so compare an entry with the diagonal: independent texts of one language."
    ),
    "masks": (
        "The weights that each language needs most, found by pruning. Masks of two seeds of one"
        " language (the diagonal) differ, too: only what languages overlap less than seeds do is"
        " specific to a language."
    ),
    "plan": (
        "Where languages differ most. Advice from a heuristic: only training shows that capacity"
        " there helps."
    ),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("texts", metavar="TEXTS", type=Path)
    parser.add_argument(
        "--monolingual", type=Path, help="folder with a model of each language alone"
    )
    parser.add_argument(
        "--output_dir", type=Path, default=Path("outputs/diagnose"), help="where the report goes"
    )
    parser.add_argument("--batches", type=int, default=16, help="batches of each language (16)")
    parser.add_argument("--batch_size", type=int, default=8, help="texts in a batch (8)")
    parser.add_argument("--max_length", type=int, default=64, help="tokens of a text (64)")
    parser.add_argument(
        "--sparsity", type=float, default=0.2, help="share of the weights that masks prune (0.2)"
    )
    parser.add_argument(
        "--mask_steps", type=int, default=200, help="steps per mask; 0 for no masks (200)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the texts and of what is masked in them (0)"
    )
    return parser.parse_args()


def read_texts(args: argparse.Namespace) -> dict[str, list[str]]:
    found = {}
    for path in sorted(args.texts.glob("*.txt*")):
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8")
        ) as file:
            lines = [line.strip() for line in file if line.strip()]
        random.Random(args.seed).shuffle(lines)
        found[path.name.partition(".txt")[0]] = lines[: args.batches * args.batch_size]
    return found


def load(name: str) -> tuple[torch.nn.Module, str]:
    """The model, and the task it was trained on."""
    architecture, *_ = AutoConfig.from_pretrained(name).architectures or ["no architecture"]
    tasks = {"ForMaskedLM": "masked_lm", "ForCausalLM": "causal_lm", "LMHeadModel": "causal_lm"}
    task = next((task for end, task in tasks.items() if architecture.endswith(end)), None)
    if task is None:
        sys.exit(
            f"MODEL must be a masked or causal language model, with its head. Found {architecture}"
            f" in {name}."
        )
    family = (Path(name) / "language_adapters.json").is_file()
    model = (
        hma.LanguageAdapterModel if family else getattr(transformers, architecture)
    ).from_pretrained(name)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), task


def make_batches(
    texts: dict[str, list[str]], tokenizer: Any, task: str, args: argparse.Namespace
) -> dict:
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=task == "masked_lm")
    transformers.set_seed(args.seed)  # of the masks
    found = {}
    for key, lines in texts.items():
        rows = [tokenizer(line, truncation=True, max_length=args.max_length) for line in lines]
        size = max(1, min(args.batch_size, len(rows) // args.batches))
        found[key] = [collator(rows[k : k + size]) for k in range(0, len(rows) - size + 1, size)]
    return found


def score(
    model: torch.nn.Module, task: str, texts: dict, tokenizer: Any, args: argparse.Namespace
) -> Any:
    rows = {key: [{"text": line} for line in lines] for key, lines in texts.items()}
    given = {"processing_class": tokenizer, "max_length": args.max_length}
    return hma.evaluate_languages(model, task, rows, progress=True, **given)


def interference(scores: Any, texts: dict, tokenizer: Any, args: argparse.Namespace) -> Any:
    found = {"alone": {}, "joint": {}}
    for key, lines in texts.items():
        alone = score(*load(str(args.monolingual / key)), {key: lines}, tokenizer, args)
        for side, parts in (("alone", alone.per_example[key]), ("joint", scores.per_example[key])):
            found[side][key] = torch.as_tensor(parts["bits"] / parts["characters"].clip(1))
    return hma.interference_report(
        *found.values(), higher_is_better=False, metric="mean bits per character of a text"
    )


def main() -> None:
    args, sections = arguments(), {}
    (model, task), tokenizer, texts = (
        load(args.model),
        AutoTokenizer.from_pretrained(args.model),
        read_texts(args),
    )
    texts = {
        key: lines for key, lines in texts.items() if key in getattr(model, "languages", texts)
    }
    if len(texts) < 2:
        sys.exit(
            "TEXTS must have files of two languages of the model, such as en.txt. Found"
            f" {list(texts)}."
        )
    batches = make_batches(texts, tokenizer, task, args)

    def add(name: str, title: str, result: Any, **pictures: str) -> None:
        drawn = {picture: getattr(result, method) for picture, method in pictures.items()}
        sections[name] = ReportSection(title, ABOUT[name], result, drawn)

    scores = score(model, task, texts, tokenizer, args)
    add("scores", "Scores", scores)
    if args.monolingual:
        add(
            "interference",
            "Interference",
            interference(scores, texts, tokenizer, args),
            interference="plot",
        )
    projection = 4096 if model.num_parameters() > LARGE else None
    found = hma.gradient_conflict(
        model, batches, per_layer=True, projection=projection, progress=True
    )
    add(
        "conflict",
        "Gradient conflict",
        found,
        gradient_cosines="plot",
        cosines_by_layer="plot_layers",
    )
    pair, layer = found.most_conflicting(), found.most_conflicting(per_layer=True)
    means = (
        f"{found.between_languages:.2f} between languages, {found.within_languages:.2f} within one"
    )
    findings = [
        f"The gradients of {' and '.join(pair.languages)} agree least: cosine {pair.cosine:.2f}"
        f" (mean {means})."
    ]
    findings += [
        f"Lowest cosine of a layer: {layer.cosine:.2f}, {' and '.join(layer.languages)} in"
        f" {layer.layer}."
    ]
    masks = None
    if args.mask_steps:
        how = {"sparsity": args.sparsity, "steps": args.mask_steps}
        masks = hma.learn_language_masks(model, batches, progress=True, **how)
        same = hma.mask_overlap(masks)
        add(
            "masks",
            "Language-specific weights",
            same,
            mask_overlap="plot",
            overlap_by_layer="plot_layers",
        )
        findings += [
            f"Masks overlap by {same.between_languages:.3f}, those of seeds by"
            f" {same.between_seeds:.3f}."
        ]
    layers = sum(name.rpartition(".")[2].isdigit() for name in found.per_layer)
    plan = hma.plan_language_capacity(found, masks, budget=max(1, layers // 3))
    add("plan", "Where to put capacity", plan, need_of_layers="plot")
    findings += [f"Layers in which languages differ most: {', '.join(plan.target_layers)}."]
    hardware = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, CPU"
    )
    versions = ", ".join(
        f"{library.__name__} {library.__version__}" for library in (hma, torch, transformers)
    )
    about = {
        "model": args.model,
        "texts": ", ".join(f"{key} {len(lines)}" for key, lines in texts.items()),
    }
    about |= {
        "command": shlex.join(["python", *sys.argv]),
        "versions": versions,
        "hardware": hardware,
    }
    DiagnosticReport(f"Interference in {args.model}", tuple(findings), sections, about).save(
        args.output_dir
    )
    print("", *findings, f"See {args.output_dir / 'report.html'}.", sep="\n")


if __name__ == "__main__":
    main()
