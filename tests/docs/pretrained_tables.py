"""The text and tables about the study of a pretrained model, from its results files.

Until such a file is there, the page says that the study has not been run.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.docs.pages import ROOT

FOLDER = ROOT / "recipes" / "results"
RESULTS = (FOLDER / "pretrained_gpu.json", FOLDER / "pretrained_small.json")
"""The page has the first of these that there is."""

TRANSLATIONS = (FOLDER / "pretrained_translations.json",)
NOT_RUN = "This study has not been run yet."

NAMES = {
    "none": "the encoder as it is",
    "joint": "joint training",
    "shared_adapter": "one shared adapter",
    "adapters": "adapters",
    "adapters_longer": "adapters trained 2.5 times as long",
    "meta_direct": "meta-learning without the indirect part",
    "meta_fast": "meta-learning (fast)",
    "meta_next": "meta-learning through the next step",
    "meta_paper": "meta-learning (paper)",
}
"""Arm → what sentences call it."""


def rows_of(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def points(value: float, *, sign: bool = False) -> str:
    return f"{100 * value:{'+' if sign else ''}.1f}"


def score(value: float | None) -> str:
    return "–" if value is None else points(value)


def with_ends(one: dict[str, float]) -> str:
    ends = f"[{points(one['low'], sign=True)}, {points(one['high'], sign=True)}]"
    return f"{points(one['mean'], sign=True)} {ends}"


def paragraph(text: str) -> str:
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(
        text, 120, break_long_words=False, break_on_hyphens=False, subsequent_indent=indent
    )


def compared(one: dict[str, Any], margin: float) -> str:
    """What a comparison found, in a sentence."""
    first, second = NAMES[one["treatment"]], NAMES[one["baseline"]]
    numbers = f"{points(one['mean'], sign=True)} points"
    numbers += (
        f" (95 % interval {points(one['low'], sign=True)} to {points(one['high'], sign=True)}"
    )
    numbers += f", p = {one['p_value']:.2g})"
    power = f"a difference of {points(one['detectable'])} would have been found in four of five"
    sentences = {
        "ahead": f"**{first} is better than {second}**: {numbers}",
        "behind": f"**{first} is worse than {second}**: {numbers}",
        "open": f"{first} cannot be told from {second}: {numbers}; {power} such studies",
    }
    within = f"{first} and {second} are within ±{points(margin)} points of each other: {numbers}"
    sentence = sentences.get(one["found"], within)
    return paragraph(
        f"- {sentence[0].upper()}{sentence[1:]}." if sentence[0] != "*" else f"- {sentence}."
    )


def verdict(record: dict[str, Any]) -> str:
    """What the criterion says, with intervals and power."""
    criterion, head = record["criterion"], record["head"]
    zero, task = record["zero_shot"][criterion["task"]], criterion["task"].upper()
    if not criterion["comparisons"]:
        done = criterion["verdict"].removeprefix("UNFINISHED: ")
        return f"The study is not complete yet, and decides nothing: {done} have every method."

    comparisons, margin = criterion["comparisons"], criterion["margin"]
    seeds, widest = comparisons[0]["seeds"], max(comparisons, key=lambda one: one["half_width"])
    means = ", ".join(f"{NAMES[arm]} {points(one['targets'])}" for arm, one in zero.items())
    parts = [
        f"**In short.** Zero-shot {task} accuracy in per cent, mean over the targets and {seeds}"
        f" seeds of pretraining: {means}. The comparisons that were fixed before the runs, p"
        " adjusted for all of them:"
    ]

    is_test = "Zero-shot, every method is above the most frequent label in all target languages but"
    is_test += " at most one, so that there is something to compare."
    if not record["is_a_test"]:
        is_test = "Not every method is above the most frequent label in all target languages but"
        is_test += " one, so that **the comparison is no test of zero-shot transfer**."
    power = f"The widest interval is ±{points(widest['half_width'])} points"
    if widest["half_width"] <= margin:
        power += f", no wider than the ±{points(margin)} that were asked for."
    else:
        power += (
            f". One of ±{points(margin)} would take {widest['seeds_for_margin']} seeds and"
            f" {widest['hours_for_margin']:.1f} hours of a process"
            f" (here {widest['hours']:.1f} for {seeds} seeds)."
        )
    trained = (
        f"The head for masked words reached {head['after']:.2f} nats per word before anything else"
        f" was trained; the frequencies of single words have {head['single_words']:.2f}."
    )
    made = (
        f"Computed on {', '.join(record['devices'])}, in {record['hours']:.1f} hours of a process."
    )
    if record["missing"]:
        made += f" {len(record['missing'])} cells of the plan have not been computed."
    text = [paragraph(parts[0]), "\n".join(compared(one, margin) for one in comparisons)]
    return "\n\n".join([*text, paragraph(f"{power} {is_test} {trained} {made}")])


def comparisons(record: dict[str, Any]) -> str:
    """The comparisons of the criterion in points, also on low-resource languages alone."""
    rows = [
        [
            one["treatment"],
            one["baseline"],
            with_ends(one),
            f"{one['p_value']:.3g}",
            one["found"],
            points(one["detectable"]),
            with_ends(one["low_resource"]) if one["low_resource"] else "–",
        ]
        for one in record["criterion"]["comparisons"]
    ]
    header = [
        "treatment",
        "against",
        "better by",
        "p (Holm)",
        "found",
        "detectable",
        "low-resource",
    ]
    return rows_of(header, rows)


def scores(record: dict[str, Any]) -> str:
    """Zero-shot scores of all arms on all tasks."""
    tasks = {name: arms for name, arms in record["zero_shot"].items() if arms}
    header = ["method", "seeds"]
    for name in tasks:
        header += [f"{name.upper()} {where}" for where in ("en", "targets", "low-resource")]

    arms = list(dict.fromkeys(arm for of_task in tasks.values() for arm in of_task))
    rows = []
    for arm in arms:
        cells = []
        for of_task in tasks.values():
            one = of_task.get(arm, {})
            cells += [score(one.get(name)) for name in ("source", "targets", "low_resource")]
        seeds = max(of_task[arm]["seeds"] for of_task in tasks.values() if arm in of_task)
        rows.append([arm, str(seeds), *cells])
    return rows_of(header, rows)


def languages(record: dict[str, Any]) -> str:
    """The score of each language on the criterion's task, zero-shot."""
    arms = record["zero_shot"][record["criterion"]["task"]]
    first = next(iter(arms.values()))
    keys = list(first["languages"])
    rows = [["majority", *(score(first["majority"].get(key)) for key in keys)]]
    for arm, one in arms.items():
        rows.append([arm, *(score(one["languages"][key]) for key in keys)])
    return rows_of(["method", *keys], rows)


def variants(record: dict[str, Any]) -> str:
    """Zero-shot scores with φ of the target, of the source, without any, and with the mean."""
    names = ("target", "source", "no", "mean")
    tasks = {name: arms for name, arms in record["zero_shot"].items() if arms}
    header = ["method", *(f"{task.upper()}, {name} φ" for task in tasks for name in names)]
    rows = []
    for arm in dict.fromkeys(arm for of_task in tasks.values() for arm in of_task):
        found = [of_task.get(arm, {}).get("variants", {}) for of_task in tasks.values()]
        if any(len(one) > 1 for one in found):
            rows.append([arm, *(score(one.get(name)) for one in found for name in names)])
    return rows_of(header, rows)


def within(record: dict[str, Any]) -> str:
    """Scores within a language, of a model that was fine-tuned on labels of that language."""
    rows = []
    for task, arms in record["within"].items():
        for arm, one in arms.items():
            own = [f"{key} {score(value)}" for key, value in one["languages"].items()]
            rows.append([task.upper(), arm, str(one["seeds"]), ", ".join(own)])
    if not rows:
        return "Scores within a language have not been computed."
    return rows_of(["task", "method", "seeds", "scores"], rows)


def training(record: dict[str, Any]) -> str:
    """The loss at the end of training on text, the meter of the meta-gradient, and the time."""

    def number(value: float | None, digits: int = 2) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    rows = [
        [
            arm,
            number(one.get("loss"), 3),
            number(one.get("meta_indirect_ratio")),
            number(one.get("meta_cosine")),
            f"{one['seconds']:.0f}",
        ]
        for arm, one in record["pretraining"].items()
    ]
    return rows_of(["method", "loss", "indirect / direct", "cosine", "seconds"], rows)


def tuning(record: dict[str, Any]) -> str:
    """The trials: zero-shot scores on selection data."""
    rows = []
    for arm, trials in record["tuning"].items():
        for trial in trials:
            given = ", ".join(f"{name}={value}" for name, value in trial["options"].items())
            mark = " (chosen)" if trial["options"] == record["tuned"][arm] else ""
            rows.append([arm, given, f"{points(trial['score'])}{mark}"])
    return rows_of(["method", "options", "score"], rows)


SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "The comparisons": (
        "In points, means over the targets. *Detectable*: a difference that four of five studies of"
        " this size would find. *Low-resource*: the same difference on these targets alone, not"
        " adjusted.",
        comparisons,
    ),
    "Zero-shot scores": (
        "In per cent, means over languages and seeds, after fine-tuning on English labels: accuracy"
        " of POS and NLI, F1 of NER and QA. Seeds are those of pretraining; those of fine-tuning"
        " are nested in them.",
        scores,
    ),
    "Zero-shot POS by language": ("Each language with its own φ.", languages),
    "Whose adapter": (
        "The target languages with their own φ, with that of English, without any, and with the"
        " mean of all seven.",
        variants,
    ),
    "Within a language": ("Fine-tuned and scored in the same language.", within),
    "Training on text": (
        "The loss in the last fifth of training, the length of the indirect part of the"
        " meta-gradient as a multiple of the direct part, their cosine, and the longest run in"
        " seconds, while others shared the machine.",
        training,
    ),
    "Trials": (
        "Options were chosen by zero-shot POS accuracy on selection data of three targets, after"
        " shorter runs, before any test data were scored.",
        tuning,
    ),
}


def details(record: dict[str, Any]) -> str:
    """All tables, each under its heading."""
    parts = []
    for heading, (text, make) in SECTIONS.items():
        parts += [f"### {heading}", paragraph(text), make(record)]
    return "\n\n".join(parts)


def second_setting(record: dict[str, Any]) -> str:
    """The verdict with the other objective, its comparisons and its scores."""
    if not record["criterion"]["comparisons"]:
        return verdict(record)
    return "\n\n".join([verdict(record), comparisons(record), scores(record)])


def of_results(
    make: Callable[[dict[str, Any]], str], otherwise: str, paths: Sequence[Path] = RESULTS
) -> Callable[[], str]:
    """What is on the page: made from the first of the files with a cell that saw test data."""

    def text() -> str:
        for path in paths:
            if path.is_file():
                record = json.loads(path.read_text(encoding="utf-8"))
                # after the trials alone, there is nothing to compare yet
                if any(record["zero_shot"].values()):
                    return make(record)
        return otherwise

    return text


PRETRAINED_TABLES = {
    "pretrained_verdict": of_results(verdict, NOT_RUN),
    "pretrained_translations": of_results(second_setting, NOT_RUN, TRANSLATIONS),
    "pretrained_details": of_results(details, "Its tables will come from its results file."),
}
