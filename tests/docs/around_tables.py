"""The tables of what training costs around its steps, and of the steps of fine-tuning.

Until a result is there, the page says that it has not been measured.
"""

from __future__ import annotations

from collections.abc import Callable

NOT_RUN = "It has not been run yet."


def around_tables(
    has_result: Callable[[str], bool],
    result: Callable[[str], dict],
    markdown: Callable[[list[str], list[list[str]]], str],
) -> dict[str, Callable[[], str]]:
    """The tables by name, from the tools of `tests.docs.tables`."""

    def rows_of(key: str, header: list[str], line: Callable[[dict], list[str] | None]) -> str:
        if not has_result("benchmark_around_step_cpu"):
            return NOT_RUN
        lines = [line(row) for row in result("benchmark_around_step_cpu")[key]]
        return markdown(header, [one for one in lines if one is not None])

    def imports() -> str:
        return rows_of(
            "imports", ["import", "s"], lambda row: [f"`{row['import']}`", f"{row['seconds']:.1f}"]
        )

    def start_up() -> str:
        def line(row: dict) -> list[str] | None:
            if "start_seconds" not in row:
                return None
            return [
                row["part"],
                f"{row['start_seconds']:.0f}",
                f"{row['resident_mb']:.0f}",
                f"{row['anonymous_mb']:.0f}",
                f"{row['step_seconds']:.2f}",
                f"{100 * row['batch_share']:.1f} %",
            ]

        header = ["data", "start, s", "resident, MB", "anonymous, MB", "step, s", "batch"]
        return rows_of("rows", header, line)

    def checkpoints() -> str:
        def line(row: dict) -> list[str] | None:
            names = ("step", "save", "torch_save", "torch_load", "resume")
            if "save_seconds" not in row:
                return None
            return [f"{row[f'{name}_seconds']:.2f}" for name in names] + [
                f"{row['evaluation_start']:.2f}"
            ]

        header = ["step", "checkpoint", "`torch.save`", "`torch.load`", "resume", "evaluation"]
        return rows_of("rows", header, line)

    return {"imports": imports, "start_up": start_up, "checkpoints": checkpoints}


def fine_tuning_cost(rows: list[dict], markdown: Callable[..., str]) -> str:
    """Time relative to a step of transformers.Trainer, by number of languages."""
    counts = sorted({row["languages"] for row in rows})
    ratios = {(row["setting"], row["languages"]): f"{row['ratio']:.2f}" for row in rows}
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    lines = [[name, *(ratios.get((name, count), "–") for count in counts)] for name in settings]
    return markdown(["step", *(f"L = {count}" for count in counts)], lines)
