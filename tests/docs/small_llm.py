"""The tables of the page *Add languages to a small LLM*, however much of its study is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.docs.pages import ROOT

RESULT = ROOT / "recipes" / "results" / "small_llm_family.json"
NOT_RUN = "The study has not been run yet."
ARMS = {
    "one": "`one`: one LoRA of all languages, trained further",
    "both": "`both`: θ and the new φ",
    "own": "`own`: the new φ alone",
}
MEASURES = {"forgetting": "English is kept", "learning": "Swahili is learned"}

Record = Mapping[str, Any]


def record() -> Record | None:
    """The results of the study; `None` where no run has written them."""
    return json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else None


def small_llm_family() -> str:
    """Bits per character before and after, as a family and as what is served."""
    return of_family(record())


def small_llm_addition() -> str:
    """English before and after Swahili is added in three ways, and Swahili in the end."""
    return of_addition(record())


def small_llm_comparisons() -> str:
    """The comparisons that were fixed before the runs."""
    return of_comparisons(record())


def of_family(found: Record | None) -> str:
    if found is None or not found["family"]:
        return NOT_RUN
    family, words = found["family"], found["tokens_per_word"]
    exported = family["exported"]
    header = ["language", "tokens per word", "the model as it is ↓", "family ↓", "exported ↓"]
    rows = [
        [
            language,
            f"{words[language]:.1f}",
            *(f"{one[language]:.3f}" for one in (family["base"], score, exported["scores"])),
            f"{exported['largest_logit_difference'][language]:.0e}",
        ]
        for language, score in ((key, family["scores"]) for key in family["scores"])
    ]
    return table([*header, "largest difference of a logit"], rows)


def of_addition(found: Record | None) -> str:
    if found is None or not found["added"]:
        return NOT_RUN
    steps = list(next(iter(found["added"].values()))["watched"])
    header = ["trained", "seeds", *(f"English, step {step} ↓" for step in steps)]
    rows = []
    for arm, one in found["added"].items():
        start = found["start"]["one" if arm == "one" else "both"]
        rows.append(
            [
                ARMS[arm],
                str(one["seeds"]),
                *(f"{one['watched'][step]:.3f}" for step in steps),
                f"{one['forgetting']:+.3f}",
                f"{start['fr']:.3f} → {one['scores']['fr']:.3f}",
                f"{one['learning']:.3f}",
            ]
        )
    return table([*header, "forgotten ↓", "French ↓", "Swahili in the end ↓"], rows)


def of_comparisons(found: Record | None) -> str:
    if found is None:
        return NOT_RUN
    criterion = found["criterion"]
    if not criterion["compared"]:
        return f"Not to be told yet: {criterion['verdict'].removeprefix('UNFINISHED: ')}."

    rows = []
    for one in criterion["compared"]:
        gain = f"{one['mean']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"
        arms = f"`{one['treatment']}` and `{one['baseline']}`"
        rows.append([MEASURES[one["measure"]], arms, gain, f"{one['p_value']:.2g}", shown(one)])
    return table(["measure", "of", "the first is better by", "p (Holm)", "shown"], rows)


def shown(one: Mapping[str, Any]) -> str:
    """What a comparison decides."""
    if one["p_value"] >= 0.05:
        return "neither"
    return f"`{one['treatment' if one['mean'] > 0 else 'baseline']}` is better"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


TABLES = (small_llm_family, small_llm_addition, small_llm_comparisons)
