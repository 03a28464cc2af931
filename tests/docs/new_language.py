"""The tables of the study of new languages on the page about adding one."""

from __future__ import annotations

from typing import Any

STARTS = {
    "fresh": "fresh",
    "mean": "mean of the family",
    "nearest": "nearest by score",
    "gradient": "nearest by gradient",
    "reptile": "Reptile",
}


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def new_language_curves(study: dict[str, Any]) -> str:
    """Bits per character of test text, by language, start and steps; the best of each in bold."""
    languages = list(next(iter(study["curves"].values())))
    rows = []
    for language in languages:
        curves = {start: study["curves"][start][language] for start in STARTS}
        steps = [key for key in curves["fresh"] if key != "seeds"]
        best = {step: min(curve[step] for curve in curves.values()) for step in steps}
        for start, curve in curves.items():
            scores = [
                f"**{curve[step]:.3f}**" if curve[step] == best[step] else f"{curve[step]:.3f}"
                for step in steps
            ]
            rows.append([language, f"{STARTS[start]}{_taken(study, start, language)}", *scores])
    return table(["new language", "start", *(f"{step} steps" for step in steps)], rows)


def new_language_differences(study: dict[str, Any]) -> str:
    """How much better than a fresh adapter the starts are, by the criterion of the study."""
    criterion = study["criterion"]
    if not criterion["comparisons"]:
        return f"The study is not complete yet: {criterion['verdict']}."

    rows = [
        [
            STARTS[one["treatment"]],
            str(one["steps"]),
            f"{one['mean']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})",
            f"{one['p_value']:.3f}",
            one["found"],
        ]
        for one in criterion["comparisons"]
    ]
    return table(["start", "steps", "better than fresh by", "p", "found"], rows)


def _taken(study: dict[str, Any], start: str, language: str) -> str:
    """Which languages were taken, the most frequent first."""
    counted = study["taken"].get(start, {}).get(language, {})
    several = [key if len(counted) == 1 else f"{key} ×{count}" for key, count in counted.items()]
    return f" ({', '.join(several)})" if several else ""
