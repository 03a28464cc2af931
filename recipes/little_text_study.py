"""Does the indirect part of the meta-gradient help beside regularizers, where text is little?

Trains small masked language models from scratch on a few rows of each language: with adapters; with
dropout, weight decay, a smaller model or sharpness-aware minimization besides; by meta-gradients;
and by controls whose indirect part has a random direction or the opposite sign. Scores each at its
last step and, with early stopping, at its best step on selection text. Chooses the strength of each
regularizer on selection text first. Every cell has a file of its own, and a results file with all
of them goes on elsewhere: `--continue_from` takes the cells of it that have the same settings.

Needs:    the package with its extra metrics; the configuration little_text_small needs a
          folder of texts besides, for one of its scenarios.
Takes:    seconds with little_text_tiny.yaml; for little_text_small.yaml see there.
Writes:   to --output_dir: cells/, report.md; to --results: everything in one file.
Command:  hf-meta-adapters run little_text_study --config little_text_tiny
Override: the command line wins: --processes 2 --output_dir FOLDER; --report true computes nothing
          and writes the report of the cells that are done.
"""

from __future__ import annotations

from functools import partial
from itertools import chain
from pathlib import Path

from hf_meta_adapters.cli import parse_arguments
from hf_meta_adapters.cli.process_group import closing_process_group
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.pretraining import train_tokenizer
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.cells_file import write_cells
from hf_meta_adapters.study.little_text_cell import compute_little_text_cell
from hf_meta_adapters.study.little_text_plan import (
    LittleTextArguments,
    best_trials,
    languages_of,
    study_plan,
    text_digest,
    trial_plan,
)
from hf_meta_adapters.study.little_text_report import little_text_report, markdown_report
from hf_meta_adapters.study.resumable_study import done_cells, study_record


def tokenizer_of(name: str, args: LittleTextArguments) -> Path:
    """The folder of the tokenizer of a scenario, trained on as much text of each language."""
    folder = Path(args.output_dir) / f"tokenizer_{name}"
    if folder.is_dir():
        return folder

    scenario = args.scenarios[name]
    texts = read_texts(scenario["data"], "train", languages_of(scenario))
    lines = min(map(len, texts.values()))
    tokenizer = train_tokenizer(
        chain(*(several[:lines] for several in texts.values())),
        vocabulary=args.vocabulary,
        max_length=args.max_length,
    )

    # Renamed when it is whole, so that a run that was killed does not leave half a tokenizer.
    unfinished = folder.with_name(f"{folder.name}.partial")
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(folder)
    return folder


def main() -> None:
    args = parse_arguments(LittleTextArguments, description=__doc__)
    tokenizers = {name: tokenizer_of(name, args) for name in args.scenarios}
    digests = {
        name: text_digest(scenario["data"], languages_of(scenario), str(tokenizers[name]))
        for name, scenario in args.scenarios.items()
    }

    compute = partial(compute_little_text_cell, tokenizers=tokenizers)

    # The strength of each regularizer first: every cell of the plan may depend on it.
    trials = trial_plan(args, digests)
    done = done_cells(args, trials, compute)
    missing = len(trials) - len(done)
    tuned, tuning, studied = {}, {}, {}
    if not missing:
        tuned, tuning = best_trials(args, done)
        cells = study_plan(args, tuned, digests)
        studied = done_cells(args, cells, compute)
        missing = len(cells) - len(studied)

    report = little_text_report(args, list(studied.values()), missing=missing)
    text = markdown_report(report)
    write_text(Path(args.output_dir) / "report.md", text)
    print(text)

    done |= studied
    if args.results and done:
        record = {
            "command": written_command(),
            **study_record(done, studied),
            "estimated_hours": args.estimated_hours,
            "tuned": tuned,
            "tuning": tuning,
            **report,
        }
        write_cells(args.results, record, done)


if __name__ == "__main__":
    with closing_process_group():
        main()
