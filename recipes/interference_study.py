"""Do meta-learned adapters beat joint training, adapters and other language-specific layers?

Pretrains small masked language models by every method of `hf_meta_adapters.study.methods.METHODS`:
one model per language (mono), of all languages, and of pairs with the pivot, for several seeds and
at equal numbers of examples. Scores them on test text (bits per character) and, fine-tuned, on POS
and NER within each language and zero-shot from the pivot.

Needs:    DATA/text/<language>/{train,valid,test}.txt(.gz), or the same without text/, and for the
          tasks DATA/{pos,ner}/<language>/{train,test}.jsonl(.gz).
Takes:    about an hour and a half with the configuration below and two processes; a minute
          with study_tiny.yaml. Every cell (method, languages, seed) is a file in OUTPUT_DIR/cells:
          a run that was killed continues where it was.
Writes:   report.html, .md, .json and pictures to --output_dir; --results FILE for one JSON file.
Command:  first the trials of the settings, then the study with the best of them:
          hf-meta-adapters run interference_study --config study_small
              --processes 2 --tune true
          hf-meta-adapters run interference_study --config study_small
              --processes 2
Override: every setting is an argument, and the command line wins over --config. --cells 1/4
          computes a quarter of the cells; --report true writes the report of those that are done.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from itertools import chain
from pathlib import Path

from hf_meta_adapters.cli import parse_arguments
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.pretraining import train_tokenizer
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.cell import compute_cell, read_texts
from hf_meta_adapters.study.cells import count_lines, study_cells, trial_cells
from hf_meta_adapters.study.grid import read_grid, run_grid
from hf_meta_adapters.study.methods import METHODS
from hf_meta_adapters.study.reporting import study_report
from hf_meta_adapters.study.study_arguments import StudyArguments
from hf_meta_adapters.study.tuning import tune_methods

FINETUNING = 250  # batches of text that take about as long as fine-tuning on one language


def shared_tokenizer(args: StudyArguments) -> Path:
    """The folder of the tokenizer of all cells, trained on as much text of each language."""
    folder = Path(args.output_dir) / "tokenizer"
    if folder.is_dir():
        return folder

    lines = min(count_lines(args).values())
    texts = read_texts(args.data, "train", args.languages, lines)
    tokenizer = train_tokenizer(
        chain(*texts.values()), vocabulary=args.vocabulary, max_length=args.max_length
    )

    # Renamed when it is whole, so that a run that was killed does not leave half a tokenizer.
    unfinished = folder.with_name("tokenizer.partial")
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(folder)
    return folder


def cost(cell: dict) -> float:
    """How long a cell takes, in batches of joint training."""
    languages = len(cell["languages"])

    # Without `languages_per_step`, a step has a batch of every language.
    batches = cell["steps"] * (cell["training"].get("languages_per_step") or languages)
    pretraining = METHODS[cell["method"]].cost * batches

    return pretraining + FINETUNING * len(cell["tasks"]) * languages


def compute(args: StudyArguments, cells: dict[str, dict], folder: str) -> dict:
    """The cells of this run, those that are done included."""
    part, parts = args.cells.split("/")
    return run_grid(
        partial(compute_cell, data=args.data, tokenizer=shared_tokenizer(args)),
        cells,
        Path(args.output_dir) / folder,
        processes=args.processes,
        part=(int(part), int(parts)),
        costs={name: cost(cell) for name, cell in cells.items()},
        progress=True,
    )


def tune(args: StudyArguments, tuning_file: Path) -> None:
    """Try settings of every method on selection text, and record the best."""
    tuning = tune_methods(
        args.trials, partial(trial_cells, args), partial(compute, args, folder="tuning")
    )

    write(tuning_file, tuning)


def write(path: Path, content: dict) -> None:
    record = {"command": written_command(), **content}
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False))


def main() -> None:
    args = parse_arguments(StudyArguments, description=__doc__)
    output = Path(args.output_dir)
    tuning_file = Path(args.tuning or output / "tuning.json")
    if args.tune:
        tune(args, tuning_file)
        return

    tuned = {}
    if tuning_file.is_file():
        tuned = json.loads(tuning_file.read_text(encoding="utf-8"))["best"]

    cells = study_cells(args, tuned)
    if not args.report:
        compute(args, cells, "cells")

    # All cells, not only those of this run: several runs may share the work.
    done = read_grid(cells, output / "cells")
    if not done:
        sys.exit(
            f"A report needs cells that are done. Found none in {output / 'cells'}. Leave out"
            " --report."
        )

    first_cell = next(iter(done.values()))
    report = study_report(
        list(done.values()),
        args.languages,
        treatments=args.treatments,
        about={
            "command": written_command(),
            "tuned": tuned or "nothing: no such file",
            "cells": len(done),
            "versions": first_cell["result"]["versions"],
            "seeds": args.seeds,
        },
        pivot=args.pivot,
        missing=len(cells) - len(done),
    )
    report.save(output)
    if args.results:
        write(Path(args.results), {"report": report.to_dict(), "cells": done})

    print(*report.findings, f"See {output / 'report.html'}", sep="\n")


if __name__ == "__main__":
    main()
