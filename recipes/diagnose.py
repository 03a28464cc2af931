"""Look for interference in a model: who loses by joint training, where, and what to do about it.

Ends with a verdict, which tells what was shown from what may be noise. The report below it has how
well the model predicts each language, the cosines between the gradients of languages, the weights
that only some languages need, and the layers in which languages differ most.

Needs:    MODEL, a folder that `save_pretrained` of this package wrote, or any masked or causal
          language model of transformers (a folder, or a name on the Hub), with its tokenizer;
          TEXTS, a folder with one file per language, one text a line: en.txt, sw.txt.gz, …, best
          of the domain that the model learns from, but not the text that it learned from.
Takes:    a minute or two for a small model on a CPU; it says how long as soon as it knows. Masks
          take most of it: --mask_steps 0 leaves them out, Ctrl-C ends them.
Writes:   report.html, .md, .json and pictures to --output_dir; the verdict to the terminal.
Command:  hf-meta-adapters diagnose MODEL TEXTS
Override: --batches, --batch_size and --max_length for more or less text, see --help. --monolingual
          FOLDER, with a model of each language alone (FOLDER/sw), measures what joint training
          costs: without it, the verdict does not know who loses. --reference goldfish compares a
          causal model with published models of its languages.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
import time
from pathlib import Path

import torch
import transformers

import hf_meta_adapters as hma
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.diagnostics import DiagnosticReport, ReportSection
from hf_meta_adapters.diagnostics.fertility import tokenizer_fertility
from hf_meta_adapters.diagnostics.verdict import Verdict
from hf_meta_adapters.errors import MetaAdapterError
from hf_meta_adapters.study.diagnosed_model import DiagnosedModel
from hf_meta_adapters.study.diagnosis import make_batches, read_text_files
from hf_meta_adapters.study.monolingual import check_monolingual, interference_of_texts
from hf_meta_adapters.study.references import compare_references, reference_models
from hf_meta_adapters.study.section_texts import SECTION_TEXTS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LARGE = 30_000_000  # from this number of parameters on, gradients are projected
FEWEST = 4  # texts of a language, and batches: with fewer, there are no intervals


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", metavar="MODEL")
    add("texts", metavar="TEXTS", type=Path)
    add("--split", help="read TEXTS/<language>/<split>.txt(.gz) in place of TEXTS/<language>.txt")
    add("--monolingual", type=Path, help="folder with a model of each language alone")
    add(
        "--reference",
        nargs="+",
        metavar="MODELS",
        help="causal models of single languages to compare with: goldfish (from the Hub), a folder"
        " with one of each language, or language=MODEL",
    )
    add("--output_dir", type=Path, default=Path("outputs/diagnose"), help="folder for the report")
    add("--batches", type=int, default=16, help="batches of each language (16)")
    add("--batch_size", type=int, default=8, help="texts in a batch (8)")
    add("--max_length", type=int, default=64, help="tokens of a text (64)")
    add("--sparsity", type=float, default=0.2, help="share of the weights that masks prune (0.2)")
    add("--mask_steps", type=int, default=200, help="steps per mask; 0 for no masks (200)")
    add("--seed", type=int, default=0, help="seed of texts and of masked tokens (0)")

    args = parser.parse_args()
    if args.batches < FEWEST or args.batch_size < 1:
        parser.error(f"--batches must be at least {FEWEST}, and --batch_size at least 1.")
    return args


def compare(diagnosed: DiagnosedModel, texts: dict, args: argparse.Namespace):
    """This model beside reference models of its languages; `None` if none are named."""
    if not args.reference:
        return None

    named = reference_models(args.reference, list(texts))
    left_out = ", ".join(key for key in texts if key not in named)
    if left_out:
        print(f"Not compared, without a reference model: {left_out}.")
    return compare_references(diagnosed, texts, named, DEVICE)


def learn_masks(model: torch.nn.Module, batches: dict, seconds: float, args: argparse.Namespace):
    """Masks of each language with two seeds; `None` if they are not wanted, or end by Ctrl-C."""
    if not args.mask_steps:
        return None

    minutes = math.ceil(2 * len(batches) * args.mask_steps * seconds / 60)
    print(f"Masks: about {minutes} min. Ctrl-C goes on without them, as --mask_steps 0 does.")
    try:
        return hma.learn_language_masks(
            model, batches, progress=True, sparsity=args.sparsity, steps=args.mask_steps
        )
    except KeyboardInterrupt:
        print("\nStopped: the report comes without masks.")
        return None


def diagnose(diagnosed: DiagnosedModel, texts: dict, args: argparse.Namespace):
    """The sections of the report, and the verdict."""
    model, tokenizer, sections = diagnosed.model, diagnosed.tokenizer, {}

    def add(name: str, title: str, result, **pictures) -> None:
        sections[name] = ReportSection(title, SECTION_TEXTS[name], result, pictures)

    references = compare(diagnosed, texts, args)  # what cannot be loaded is refused at once
    batches = make_batches(
        texts,
        tokenizer,
        masked=diagnosed.task == "masked_lm",
        batches=args.batches,
        batch_size=args.batch_size,
        max_length=args.max_length,
        seed=args.seed,
    )

    scores = diagnosed.score(texts, args.max_length)
    add("scores", "Scores", scores)

    if tokenizer.is_fast:
        fertility = tokenizer_fertility(tokenizer, texts)
        add("tokenizer", "Tokenizer", fertility, tokens_per_character=fertility.plot)

    costs = None
    if args.monolingual:
        costs = interference_of_texts(scores, texts, args.monolingual, args.max_length, DEVICE)
        add("interference", "Interference", costs, interference=costs.plot)

    if references is not None:
        add("references", "Reference models", references, references=references.plot)

    # The gradients of a large model do not fit into memory side by side: a random projection to
    # 4,096 numbers nearly keeps their cosines.
    projection, began = 4096 if model.num_parameters() > LARGE else None, time.perf_counter()
    conflict = hma.gradient_conflict(
        model, batches, per_layer=True, projection=projection, progress=True
    )
    seconds = (time.perf_counter() - began) / sum(conflict.number_of_batches)
    pictures = {"gradient_cosines": conflict.plot, "cosines_by_layer": conflict.plot_layers}
    add("conflict", "Gradient conflict", conflict, **pictures)

    masks, overlap = learn_masks(model, batches, seconds, args), None
    if masks is not None:
        overlap = hma.mask_overlap(masks)
        pictures = {"mask_overlap": overlap.plot, "overlap_by_layer": overlap.plot_layers}
        add("masks", "Language-specific weights", overlap, **pictures)

    # A third of the layers gets capacity. Embeddings and head are parts of `per_layer`, not layers.
    layers = sum(name.rpartition(".")[2].isdigit() for name in conflict.per_layer)
    plan = hma.plan_language_capacity(conflict, masks, budget=max(1, layers // 3))
    add("plan", "Where to put capacity", plan, need_of_layers=plan.plot)

    found = {"interference": costs, "conflict": conflict, "overlap": overlap, "plan": plan}
    findings = () if references is None else (references.finding,)
    return sections, findings, Verdict.of(**found, cautions=diagnosed.cautions(scores))


def main() -> None:
    args = arguments()
    diagnosed = DiagnosedModel.load(args.model, DEVICE)

    limits = {"limit": args.batches * args.batch_size, "fewest": FEWEST}
    files = read_text_files(args.texts, split=args.split, seed=args.seed, **limits)
    texts = diagnosed.known_languages(files)
    counts = ", ".join(f"{key} {len(lines)}" for key, lines in texts.items())
    print(f"Texts: {counts}.")
    left_out = ", ".join(key for key in files if key not in texts)
    if left_out:
        print(f"Left out, since the model has no such language: {left_out}.")

    if args.monolingual:
        check_monolingual(args.monolingual, list(texts))
    sections, findings, verdict = diagnose(diagnosed, texts, args)

    hardware = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{platform.machine()}, CPU"
    versions = [f"{lib.__name__} {lib.__version__}" for lib in (hma, torch, transformers)]
    about = {
        "model": args.model,
        "texts": counts,
        "command": written_command(),
        "versions": ", ".join(versions),
        "hardware": hardware,
    }

    title = f"Interference in {args.model}"
    DiagnosticReport(title, findings, sections, about, verdict).save(args.output_dir)
    print("", verdict.to_markdown().replace("**", ""), *findings, sep="\n")
    print(f"\nSee {args.output_dir / 'report.html'}.")


if __name__ == "__main__":
    try:
        main()
    except MetaAdapterError as error:
        sys.exit(str(error))
