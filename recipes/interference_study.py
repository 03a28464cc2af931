"""Do meta-learned adapters beat joint training, adapters and other language-specific layers, on your languages?

Pretrains small masked language models by every method of `hf_meta_adapters.study.METHODS`: one
model per language (mono), of all languages, and of pairs with the pivot, for several seeds and at
equal numbers of examples. Scores them on test text (bits per character) and, fine-tuned, on POS and
NER within each language and zero-shot from the pivot.

    python recipes/interference_study.py --config recipes/configs/study_small.yaml --processes 2
    --tune true python recipes/interference_study.py --config recipes/configs/study_small.yaml
    --processes 2

Every cell (method, languages, seed) is a file in OUTPUT_DIR/cells, so a run that was killed goes
on, `--cells 1/4` computes a quarter, and `--report true` writes the report of what there is. Needs:
DATA/text/<language>/{train,valid, test}.txt(.gz), or the same without text/, and for the tasks
DATA/{pos,ner}/<language>/{train,test}.jsonl(.gz).
"""

from __future__ import annotations

import json
import shlex
import sys
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from hf_meta_adapters.cli.recipe_arguments import parse_arguments
from hf_meta_adapters.pretraining import train_tokenizer
from hf_meta_adapters.study import StudyArguments, study_report, tune_methods
from hf_meta_adapters.study.cell import compute_cell, read_texts
from hf_meta_adapters.study.cells import count_lines, study_cells, trial_cells
from hf_meta_adapters.study.grid import read_grid, run_grid
from hf_meta_adapters.study.methods import METHODS

FINETUNING = 250  # batches of text that take about as long as fine-tuning on one language


def compute(
    args: StudyArguments, cells: dict[str, dict[str, Any]], folder: str
) -> dict[str, dict[str, Any]]:
    tokenizer, (part, parts) = Path(args.output_dir) / "tokenizer", args.cells.split("/")
    if not tokenizer.is_dir():
        # as much of each language
        texts = read_texts(args.data, "train", args.languages, min(count_lines(args).values()))
        made = train_tokenizer(
            chain(*texts.values()), vocabulary=args.vocabulary, max_length=args.max_length
        )
        made.save_pretrained(unfinished := tokenizer.with_name("tokenizer.partial"))
        unfinished.rename(tokenizer)
    run = partial(compute_cell, data=args.data, tokenizer=tokenizer)
    costs = {}
    for name, one in cells.items():
        batches = one["steps"] * (
            one["training"].get("languages_per_step") or len(one["languages"])
        )
        costs[name] = METHODS[one["method"]].cost * batches + FINETUNING * len(one["tasks"]) * len(
            one["languages"]
        )
    options = {
        "processes": args.processes,
        "part": (int(part), int(parts)),
        "costs": costs,
        "progress": True,
    }
    return run_grid(run, cells, Path(args.output_dir) / folder, **options)


def write(path: Path, content: dict[str, Any]) -> None:
    record = {"command": shlex.join(["python", *sys.argv]), **content}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    args = parse_arguments(StudyArguments, description=__doc__)
    output, tuning = Path(args.output_dir), Path(args.tuning or f"{args.output_dir}/tuning.json")
    if args.tune:
        make, run = partial(trial_cells, args), partial(compute, args, folder="tuning")
        return write(tuning, tune_methods(args.trials, make, run))
    tuned = json.loads(tuning.read_text(encoding="utf-8"))["best"] if tuning.is_file() else {}
    cells = study_cells(args, tuned)
    if not args.report:
        compute(args, cells, "cells")
    done = read_grid(cells, output / "cells")
    if not done:
        sys.exit(
            f"A report needs cells that are done. Found none in {output / 'cells'}. Leave out"
            " --report."
        )
    about = {
        "command": shlex.join(["python", *sys.argv]),
        "tuned": tuned or "nothing: no such file",
        "cells": len(done),
    }
    about |= {"versions": next(iter(done.values()))["result"]["versions"], "seeds": args.seeds}
    missing = len(cells) - len(done)
    options = {
        "treatments": args.treatments,
        "about": about,
        "pivot": args.pivot,
        "missing": missing,
    }
    report = study_report(list(done.values()), args.languages, **options)
    report.save(output)
    if args.results:
        write(Path(args.results), {"report": report.to_dict(), "cells": done})
    print(*report.findings, f"See {output / 'report.html'}", sep="\n")
    return None


if __name__ == "__main__":
    main()
