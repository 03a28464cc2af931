"""Look for interference in a model: which gradients conflict, where, and what to do about it.

Reports how well the model predicts each language, the cosines between the gradients of languages,
the weights that only some languages need, and the layers that should have capacity of their own.

Needs:    MODEL, a folder that `save_pretrained` of this package wrote, or any masked or causal
          language model of transformers (a folder, or a name on the Hub); TEXTS, a folder with one
          file per language, one text a line: en.txt, sw.txt.gz, …, best of the domain that the
          model learns from, but not the text that it learned from.
Takes:    a minute or two for a small model on a CPU. Masks take most of it; --mask_steps 0 leaves
          them out.
Writes:   report.html, .md, .json and pictures to --output_dir.
Command:  hf-meta-adapters diagnose MODEL TEXTS
Override: --batches, --batch_size and --max_length for more or less text, see --help. --monolingual
          FOLDER, with a model of each language alone (FOLDER/sw), also reports what joint training
          costs.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer

import hf_meta_adapters as hma
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.diagnostics import DiagnosticReport, ReportSection
from hf_meta_adapters.study.diagnosis import make_batches, read_text_files

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TASKS = {"ForMaskedLM": "masked_lm", "ForCausalLM": "causal_lm", "LMHeadModel": "causal_lm"}
LARGE = 30_000_000  # from this number of parameters on, gradients are projected
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
    add = parser.add_argument
    add("model", metavar="MODEL")
    add("texts", metavar="TEXTS", type=Path)
    add("--monolingual", type=Path, help="folder with a model of each language alone")
    add("--output_dir", type=Path, default=Path("outputs/diagnose"), help="folder for the report")
    add("--batches", type=int, default=16, help="batches of each language (16)")
    add("--batch_size", type=int, default=8, help="texts in a batch (8)")
    add("--max_length", type=int, default=64, help="tokens of a text (64)")
    add("--sparsity", type=float, default=0.2, help="share of the weights that masks prune (0.2)")
    add("--mask_steps", type=int, default=200, help="steps per mask; 0 for no masks (200)")
    add("--seed", type=int, default=0, help="seed of texts and of masked tokens (0)")
    return parser.parse_args()


def load(name: str) -> tuple[torch.nn.Module, str]:
    """The model, and the task that it was trained on."""
    architecture, *_ = AutoConfig.from_pretrained(name).architectures or ["no architecture"]
    tasks = [task for ending, task in TASKS.items() if architecture.endswith(ending)]
    if not tasks:
        sys.exit(
            f"MODEL must be a masked or causal language model, with its head. Found {architecture}"
            f" in {name}."
        )

    model_class = getattr(transformers, architecture)
    if (Path(name) / "language_adapters.json").is_file():
        model_class = hma.LanguageAdapterModel

    return model_class.from_pretrained(name).to(DEVICE).eval(), tasks[0]


def score(model: torch.nn.Module, task: str, texts: dict, tokenizer, max_length: int):
    rows = {key: [{"text": line} for line in lines] for key, lines in texts.items()}
    return hma.evaluate_languages(
        model, task, rows, processing_class=tokenizer, max_length=max_length, progress=True
    )


def interference(joint, texts: dict, tokenizer, args: argparse.Namespace):
    """What joint training costs each language: scores of texts, against those of models alone."""
    bits = {"alone": {}, "joint": {}}
    for key, lines in texts.items():
        model, task = load(str(args.monolingual / key))
        alone = score(model, task, {key: lines}, tokenizer, args.max_length)

        for side, scores in (("alone", alone), ("joint", joint)):
            counts = scores.per_example[key]
            bits[side][key] = torch.as_tensor(counts["bits"] / counts["characters"].clip(1))

    metric = "mean bits per character of a text"
    return hma.interference_report(*bits.values(), higher_is_better=False, metric=metric)


def diagnose(model: torch.nn.Module, task: str, texts: dict, tokenizer, args: argparse.Namespace):
    """The sections of the report, and a sentence for each finding."""
    sections, findings = {}, []

    def add(name: str, title: str, result, **pictures) -> None:
        sections[name] = ReportSection(title, ABOUT[name], result, pictures)

    masked, sizes = task == "masked_lm", {"batches": args.batches, "batch_size": args.batch_size}
    batches = make_batches(
        texts, tokenizer, masked=masked, max_length=args.max_length, seed=args.seed, **sizes
    )

    scores = score(model, task, texts, tokenizer, args.max_length)
    add("scores", "Scores", scores)

    if args.monolingual:
        costs = interference(scores, texts, tokenizer, args)
        add("interference", "Interference", costs, interference=costs.plot)

    # The gradients of a large model do not fit into memory side by side: a random projection to
    # 4,096 numbers nearly keeps their cosines.
    projection = 4096 if model.num_parameters() > LARGE else None
    conflict = hma.gradient_conflict(
        model, batches, per_layer=True, projection=projection, progress=True
    )
    pictures = {"gradient_cosines": conflict.plot, "cosines_by_layer": conflict.plot_layers}
    add("conflict", "Gradient conflict", conflict, **pictures)

    pair, layer = conflict.most_conflicting(), conflict.most_conflicting(per_layer=True)
    findings += [
        f"The gradients of {' and '.join(pair.languages)} agree least: cosine {pair.cosine:.2f}"
        f" (mean {conflict.between_languages:.2f} between languages,"
        f" {conflict.within_languages:.2f} within one).",
        f"Lowest cosine of a layer: {layer.cosine:.2f}, {' and '.join(layer.languages)} in"
        f" {layer.layer}.",
    ]

    masks = None
    if args.mask_steps:
        masks = hma.learn_language_masks(
            model, batches, progress=True, sparsity=args.sparsity, steps=args.mask_steps
        )

        overlap = hma.mask_overlap(masks)
        pictures = {"mask_overlap": overlap.plot, "overlap_by_layer": overlap.plot_layers}
        add("masks", "Language-specific weights", overlap, **pictures)

        findings.append(
            f"Masks overlap by {overlap.between_languages:.3f}, those of seeds by"
            f" {overlap.between_seeds:.3f}."
        )

    # A third of the layers gets capacity. Embeddings and head are parts of `per_layer`, not layers.
    layers = sum(name.rpartition(".")[2].isdigit() for name in conflict.per_layer)
    plan = hma.plan_language_capacity(conflict, masks, budget=max(1, layers // 3))
    add("plan", "Where to put capacity", plan, need_of_layers=plan.plot)
    findings.append(f"Layers in which languages differ most: {', '.join(plan.target_layers)}.")

    return sections, tuple(findings)


def main() -> None:
    args = arguments()
    model, task = load(args.model)
    tokenizer = AutoTokenizer.from_pretrained(args.model)

    # A family can only be diagnosed in its languages; a plain checkpoint takes any.
    texts = read_text_files(args.texts, limit=args.batches * args.batch_size, seed=args.seed)
    if isinstance(model, hma.LanguageAdapterModel):
        texts = {key: lines for key, lines in texts.items() if key in model.languages}
    if len(texts) < 2:
        sys.exit(
            "TEXTS must have files of two languages of the model, such as en.txt. Found"
            f" {list(texts)}."
        )

    sections, findings = diagnose(model, task, texts, tokenizer, args)

    hardware = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{platform.machine()}, CPU"
    versions = [f"{lib.__name__} {lib.__version__}" for lib in (hma, torch, transformers)]
    about = {
        "model": args.model,
        "texts": ", ".join(f"{key} {len(lines)}" for key, lines in texts.items()),
        "command": written_command(),
        "versions": ", ".join(versions),
        "hardware": hardware,
    }

    report = DiagnosticReport(f"Interference in {args.model}", findings, sections, about)
    report.save(args.output_dir)
    print("", *findings, f"See {args.output_dir / 'report.html'}.", sep="\n")


if __name__ == "__main__":
    main()
