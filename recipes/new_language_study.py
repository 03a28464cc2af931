"""From which start does a new language learn fastest?

Trains a family of languages on text, θ and φ, after the head for masked words; trains a start for
new languages by Reptile; and adds languages that the family lacks, θ frozen, from a fresh adapter,
the mean of all, the language that scores best on a few lines, the one whose gradient agrees most,
and the start of Reptile. Scores test text before training and after some steps. Families come
first, since they say which language is near. Every cell has a file of its own, and a results file
with all of them goes on elsewhere: `--continue_from` takes the cells of it that have the same
settings.

Needs:    the package with its extra metrics; text in DATA/text/<language>/{train,test}.txt(.gz),
          and for new_language_small an encoder, see there.
Takes:    seconds with new_language_tiny.yaml; for new_language_small.yaml see there.
Writes:   to --output_dir: cells/, families/ (a model for each seed), report.md; to --results:
          everything in one file.
Command:  hf-meta-adapters run new_language_study --config new_language_tiny --data DATA
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
from hf_meta_adapters.study.few_label_plan import labels_digest
from hf_meta_adapters.study.new_language_cell import compute_family, compute_growth
from hf_meta_adapters.study.new_language_plan import (
    NewLanguageArguments,
    family_plan,
    growth_plan,
)
from hf_meta_adapters.study.new_language_report import new_language_markdown, new_language_report
from hf_meta_adapters.study.pretrained_cell import START
from hf_meta_adapters.study.random_encoder import random_encoder
from hf_meta_adapters.study.resumable_study import done_cells, study_record
from hf_meta_adapters.study.shared_inputs import start_with_head


def encoder_of(args: NewLanguageArguments) -> str:
    """The encoder: that of `model`, or a tiny one with random weights, made here."""
    if not args.sizes:
        return args.model

    folder, labelled = Path(args.output_dir) / "encoder", Path(args.data) / "pos"
    return random_encoder(folder, labelled, [*args.family, *args.new], args.sizes)


def main() -> None:
    args = parse_arguments(NewLanguageArguments, description=__doc__)
    encoder, languages = encoder_of(args), [*args.family, *args.new]
    digest = labels_digest(args.data, "text", languages, encoder)

    # The head is the encoder's: one that was pretrained on masked words has seen all languages.
    use_cpu = bool(args.growth["training"].get("use_cpu"))
    start = Path(args.output_dir) / START
    head = start_with_head(start, encoder, args.data, languages, args.head, use_cpu=use_cpu)

    # Families first: they say which language is near, and so which cells there are.
    compute = partial(compute_family, data=args.data, folder=args.output_dir)
    families = family_plan(args, digest)
    done = done_cells(args, families, compute)
    missing = [name for name in families if name not in done]
    grown = {}
    if not missing:
        compute = partial(compute_growth, data=args.data, folder=args.output_dir)
        cells = growth_plan(args, done, digest)
        grown = done_cells(args, cells, compute)
        missing = [name for name in cells if name not in grown]

    report = new_language_report(args, done, grown, head=head, missing=missing)
    text = new_language_markdown(report)
    write_text(Path(args.output_dir) / "report.md", text)
    print(text)

    every = {**done, **grown}
    if args.results and every:
        record = {
            "command": written_command(),
            **study_record(every, every),
            "estimated_hours": args.estimated_hours,
            **report,
        }
        write_cells(args.results, record, every)


if __name__ == "__main__":
    with closing_process_group():
        main()
