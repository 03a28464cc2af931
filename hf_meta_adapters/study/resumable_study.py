"""What studies of small cells share: they go on where a run, or a results file, has stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hf_meta_adapters.study.cells_file import take_over_cells
from hf_meta_adapters.study.grid import Compute, ComputedCell, Settings, read_grid, run_grid

__all__ = ["ResumableStudyArguments", "done_cells", "study_record"]


@dataclass
class ResumableStudyArguments:
    """Where the cells of a study are, and what this run of it computes."""

    output_dir: str = field(
        default="outputs/study", metadata={"help": "Folder for cells and report."}
    )
    results: str = field(
        default="", metadata={"help": "File for the report and all cells, as JSON; default: none."}
    )
    continue_from: str = field(
        default="", metadata={"help": "File of `results` whose cells need no computing."}
    )
    report: bool = field(
        default=False, metadata={"help": "Only write the report, of the cells that are done."}
    )
    processes: int = field(
        default=1, metadata={"help": "How many cells are computed at the same time."}
    )


def done_cells(
    args: ResumableStudyArguments,
    cells: Mapping[str, Settings],
    compute: Compute,
) -> dict[str, ComputedCell]:
    """Compute the cells that are not done yet, and return all that are.

    Args:
        args: Where cells are, and whether any is computed.
        cells: Name → settings.
        compute: Computes a cell from its settings, in this or in another process.

    Returns:
        Name → cell: of `output_dir`, of `continue_from` where the settings are the same, and,
        unless only the report is wanted, of this run.
    """
    folder = Path(args.output_dir) / "cells"
    if args.continue_from:
        stale, taken = take_over_cells(args.continue_from, cells, folder)
        print(f"{len(taken)} cells come from {args.continue_from}.", flush=True)
        if stale:
            print(f"{len(stale)} cells there have other settings and do not count: {stale[0]}, …")

    if args.report:
        return read_grid(cells, folder)
    return run_grid(compute, cells, folder, processes=args.processes, progress=True)


def study_record(
    done: Mapping[str, ComputedCell], studied: Mapping[str, ComputedCell]
) -> dict[str, object]:
    """Say with what, where, and in what time cells were computed.

    Args:
        done: All cells, at least one.
        studied: Those of them that are no trials.

    Returns:
        `versions`, `hardware`, `seeds`, and `core_hours` and `hours` of all cells together.
    """
    every = list(done.values())
    return {
        "versions": every[0]["result"]["versions"],
        "hardware": sorted({cell["machine"] for cell in every}),
        "seeds": sorted({cell["settings"]["seed"] for cell in studied.values()}),
        "core_hours": round(sum(cell["cpu_seconds"] for cell in every) / 3600, 2),
        "hours": round(sum(cell["seconds"] for cell in every) / 3600, 2),
    }
