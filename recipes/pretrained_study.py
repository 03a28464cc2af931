"""Is meta-learning adapters worth anything on a real pretrained encoder?

Trains an encoder further on text of several languages: not at all; jointly; with one shared
adapter; with an adapter for each language; and by meta-gradients. Fine-tunes every model on English
labels and scores it in all languages, with φ of the target, of the source, none, and the mean. The
head for masked words is trained first, on states of the frozen body; then the options of each arm
are chosen on selection data. Every cell has a file of its own, and a results file with all of them
goes on elsewhere: `--continue_from` takes the cells of it that have the same settings.

Needs:    the package with its extra metrics; text in DATA/text/<language>/train.txt(.gz) and
          labelled data in DATA/<task>/<language>/{train,dev,test}.jsonl(.gz); and for
          pretrained_small an encoder, see there.
Takes:    seconds with pretrained_tiny.yaml; for the other two see there.
Writes:   to --output_dir: cells/, models/ (a model for each seed and arm), report.md; to --results:
          everything in one file.
Command:  hf-meta-adapters run pretrained_study --config pretrained_tiny --data DATA
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
from hf_meta_adapters.study.pretrained_cell import compute_pretrained_cell
from hf_meta_adapters.study.pretrained_plan import (
    PretrainedArguments,
    best_options,
    hours_by_block,
    inputs_digest,
    pretrained_plan,
    pretrained_trials,
)
from hf_meta_adapters.study.pretrained_report import pretrained_markdown, pretrained_report
from hf_meta_adapters.study.random_encoder import random_encoder
from hf_meta_adapters.study.resumable_study import done_cells, study_record
from hf_meta_adapters.study.shared_inputs import shared_inputs


def encoder_of(args: PretrainedArguments) -> str:
    """The encoder: that of `model`, or a tiny one with random weights, made here."""
    if not args.sizes:
        return args.model

    folder, labelled = Path(args.output_dir) / "encoder", Path(args.data) / next(iter(args.tasks))
    return random_encoder(folder, labelled, [args.source, *args.targets], args.sizes)


def main() -> None:
    args = parse_arguments(PretrainedArguments, description=__doc__)
    encoder = encoder_of(args)
    head = shared_inputs(args, encoder)
    digest = inputs_digest(args, encoder)

    compute = partial(compute_pretrained_cell, data=args.data, folder=args.output_dir)

    # Options first, on selection data: which cells see test data depends on them.
    trials = pretrained_trials(args, digest)
    done = done_cells(args, trials, compute)
    missing = [name for name in trials if name not in done]
    tuned, tuning, studied = {}, {}, {}
    if not missing:
        tuned, tuning = best_options(args, done)
        cells = pretrained_plan(args, tuned, digest)
        studied = done_cells(args, cells, compute)
        missing = [name for name in cells if name not in studied]

    report = pretrained_report(args, list(studied.values()), head=head, missing=missing)
    text = pretrained_markdown(report)
    write_text(Path(args.output_dir) / "report.md", text)
    print(text)

    done |= studied
    if args.results and done:
        record = {
            "command": written_command(),
            **study_record(done, studied),
            "estimated_hours": args.estimated_hours,
            "hours_by_block": hours_by_block(args, done),
            "chosen_before_test": "every trial, on selection data alone, before any test cell",
            "objective": args.pretraining["objective"],
            "tuned": tuned,
            "tuning": tuning,
            **report,
        }
        write_cells(args.results, record, done)


if __name__ == "__main__":
    with closing_process_group():
        main()
