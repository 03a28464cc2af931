"""Is meta-learning the adapters worth anything where the targets have few labels?

Fine-tunes a multilingual encoder on many labels of a source language and a few of each target: on
the source alone; in two stages; jointly, with and without adapters; with projected steps; and by
meta-gradients. Scores every language. First the options of each arm are chosen, and which
meta-gradient and which rival the criterion compares, on selection data of the source and two
targets. Every cell has a file of its own, and a results file with all of them goes on elsewhere:
`--continue_from` takes the cells of it that have the same settings.

Needs:    the package with its extra metrics; labelled data in DATA/<task>/<language>/
          {train,dev,test}.jsonl(.gz), and for few_label_small an encoder, see there.
Takes:    half a minute with few_label_tiny.yaml; for few_label_small.yaml see there.
Writes:   to --output_dir: cells/, report.md; to --results: everything in one file.
Command:  hf-meta-adapters run few_label_study --config few_label_tiny --data DATA
Override: the command line wins: --processes 2 --output_dir FOLDER; --report true computes nothing
          and writes the report of the cells that are done.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hf_meta_adapters.cli import parse_arguments
from hf_meta_adapters.cli.process_group import closing_process_group
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.cells_file import write_cells
from hf_meta_adapters.study.few_label_cell import compute_few_label_cell
from hf_meta_adapters.study.few_label_plan import (
    FewLabelArguments,
    best_of_trials,
    chosen_arms,
    few_label_plan,
    labels_digest,
    selection_plan,
)
from hf_meta_adapters.study.few_label_report import few_label_report, few_labels_markdown
from hf_meta_adapters.study.random_encoder import random_encoder
from hf_meta_adapters.study.resumable_study import done_cells, study_record


def encoder_of(args: FewLabelArguments) -> str:
    """The encoder: that of `model`, or a tiny one with random weights, made here."""
    if not args.sizes:
        return args.model

    task, about = next(iter(args.tasks.items()))
    folder, labelled = Path(args.output_dir) / "encoder", Path(args.data) / task
    return random_encoder(folder, labelled, [args.source, *about["targets"]], args.sizes)


def main() -> None:
    args = parse_arguments(FewLabelArguments, description=__doc__)
    model = encoder_of(args)
    digests = {
        task: labels_digest(args.data, task, [args.source, *about["targets"]], model)
        for task, about in args.tasks.items()
    }

    compute = partial(compute_few_label_cell, model=model, data=args.data)

    # Choices first, on selection data: which cells see test data depends on them.
    trials = selection_plan(args, digests)
    done = done_cells(args, trials, compute)
    missing = len(trials) - len(done)
    tuning, chosen, studied = {}, {}, {}
    if not missing:
        tuned, tuning = best_of_trials(args, done)
        chosen = chosen_arms(args, tuning)
        cells = few_label_plan(args, tuned, chosen, digests)
        studied = done_cells(args, cells, compute)
        missing = len(cells) - len(studied)

    report = few_label_report(args, chosen, list(studied.values()), missing=missing)
    text = few_labels_markdown(report)
    write_text(Path(args.output_dir) / "report.md", text)
    print(text)

    done |= studied
    if args.results and done:
        record = {
            "command": written_command(),
            **study_record(done, studied),
            "estimated_hours": args.estimated_hours,
            "chosen_before_test": "every trial, on selection data alone, before any test cell",
            "tuning": tuning,
            "chosen": chosen,
            **report,
        }
        write_cells(args.results, record, done)


if __name__ == "__main__":
    with closing_process_group():
        main()
