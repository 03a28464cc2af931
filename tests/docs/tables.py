"""The tables of the documentation that are made from results.

`python -m tests.docs.tables` writes them into the pages. A page has `<!-- table: NAME -->` before
the table and `<!-- end of table -->` after it; NAME is a function in this module, in
`little_data` or in `small_llm`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from tests.docs import little_data, new_language, small_llm
from tests.docs.around_tables import NOT_RUN, around_tables, fine_tuning_cost
from tests.docs.pages import ROOT, pages
from tests.docs.pretrained_tables import PRETRAINED_TABLES

RESULTS = ROOT / "recipes" / "results"
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n)(?:(?!<!-- ).)*(<!-- end of table -->)", re.DOTALL)


def result(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def has_result(name: str) -> bool:
    return (RESULTS / f"{name}.json").is_file()


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def closeness() -> str:
    """Median (and worst) cosine to the exact meta-gradient, by setting and β."""
    rows = [
        row
        for row in result("benchmark_fidelity_cpu")["rows"]
        if not row["setting"].startswith("indirect")
    ]
    rates = sorted({row["inner_learning_rate"] for row in rows})
    cells = {
        (r["setting"], r["inner_learning_rate"]): f"{r['median']:.3f} ({r['worst']:.3f})"
        for r in rows
    }
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    header = ["setting", *(f"β = {rate:g}" for rate in rates)]
    return markdown(header, [[name, *(cells[name, rate] for rate in rates)] for name in settings])


def closeness_of_next() -> str:
    """The same with the next step as look-ahead, by the rate of AdamW."""
    rows = result("benchmark_fidelity_cpu").get("next_rows")
    if rows is None:
        return NOT_RUN

    rates = sorted({row["learning_rate"] for row in rows})
    cells = {
        (r["setting"], r["learning_rate"]): f"{r['median']:.3f} ({r['worst']:.3f})" for r in rows
    }
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    header = ["setting", *(f"rate = {rate:g}" for rate in rates)]
    return markdown(header, [[name, *(cells[name, rate] for rate in rates)] for name in settings])


def cost(name: str = "benchmark_meta_step_cpu") -> str:
    """Time relative to a step of transformers.Trainer, and peak memory above the start."""
    rows = result(name)["rows"]
    counts = sorted({row["languages"] for row in rows})
    cells = {
        (row["setting"], row["languages"]): (f"{row['ratio']:.2f}", f"{row['peak_mb']:.0f}")
        for row in rows
    }
    header = [
        "step",
        *(f"time, L = {count}" for count in counts),
        *(f"MB, L = {count}" for count in counts),
    ]
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    lines = [
        [name, *(cells.get((name, n), ("–", "–"))[k] for k in (0, 1) for n in counts)]
        for name in settings
    ]
    return markdown(header, lines)


CHOICES = (
    "fast",
    "fast, half the meta rows",
    "fast, half the rows",
    "fast, a quarter of the rows",
    "fast, meta_every=4",
    "next",
    "next, half the rows",
    "drawn",
    "default",
    "paper",
)
"""The settings among which a user chooses."""


def cost_by_setting() -> str:
    """The time of the settings among which a user chooses, with a sparse head."""
    rows = result("benchmark_meta_step_cpu")["rows"]
    counts = sorted({row["languages"] for row in rows})
    ratios = {(row["setting"], row["languages"]): f"{row['ratio']:.2f}" for row in rows}
    header = ["step", *(f"L = {count}" for count in counts)]
    return markdown(
        header, [[name, *(ratios[name, count] for count in counts)] for name in CHOICES]
    )


def cost_of_fewer_rows() -> str:
    """The same with a share of the rows in the mixed product, in a run of these settings alone."""
    return cost("benchmark_fewer_rows_cpu")


def cost_of_one_row() -> str:
    """The same for batches of one row."""
    return cost("benchmark_one_row_cpu")


def cost_of_small_adapters() -> str:
    """The same for adapters an eighth as wide."""
    return cost("benchmark_small_adapters_cpu")


def cost_of_words() -> str:
    """The same for a large vocabulary."""
    return cost("benchmark_vocabulary_cpu")


def surgery() -> str:
    """Time of the ways to weights relative to a joint step, and peak memory above the start."""
    rows = result("benchmark_surgery_cpu")["rows"]
    columns = list(dict.fromkeys((row["theta"], row["languages"]) for row in rows))
    cells = {
        (row["step"], row["theta"], row["languages"]): (
            f"{row['ratio']:.2f}",
            f"{row['peak_mb']:.0f}",
        )
        for row in rows
    }
    header = ["step"]
    for kind in ("time", "MB"):
        header += [f"{kind}, {theta}, L = {count}" for theta, count in columns]

    lines = []
    for step in dict.fromkeys(row["step"] for row in rows):
        found = [cells[(step, *column)] for column in columns]
        lines.append([step, *(ratio for ratio, _ in found), *(peak for _, peak in found)])
    return markdown(header, lines)


def gramian_noise() -> str:
    """Median errors of the weights of gradient surgery, by what they are computed from."""
    rows = result("gramian_noise")["rows"]
    sources = list(rows[0]["median"])
    lines = [
        [f"`{row['method']}`", *(f"{row['median'][source]:.2f}" for source in sources)]
        for row in rows
    ]
    return markdown(["method", *sources], lines)


def new_language_curves() -> str:
    """Learning curves of new languages, by their start."""
    return of_new_languages(new_language.new_language_curves)


def new_language_differences() -> str:
    """Each start compared with a fresh one."""
    return of_new_languages(new_language.new_language_differences)


def of_new_languages(table: Callable[[dict], str], name: str = "new_language_small") -> str:
    return table(result(name)) if has_result(name) else "It has not been run yet."


GPU_SHAPES = {
    "gpu_encoder": "XLM-R-base, bottleneck adapters",
    "gpu_decoder": "Llama of 1 billion, frozen, LoRA",
}
"""Table → the model of the benchmark on a GPU."""


def of_gpu(shape: str, name: str = "benchmark_gpu") -> str:
    """Time relative to a step of transformers.Trainer, tokens, share of the card's peak, memory."""
    if not has_result(name):
        return "It has not been run yet."

    lines = []
    for row in result(name)["rows"]:
        if row["shape"] != shape:
            continue
        if row["error"]:
            lines.append([row["setting"], str(row["languages"]), row["error"], *["–"] * 4])
            continue
        known = {name: row.get(name) for name in ("ratio", "share_of_peak", "peak_mb")}
        share, peak = known["share_of_peak"], known["peak_mb"]
        cells = [
            f"{1000 * row['seconds']:.0f}",
            "–" if known["ratio"] is None else f"{known['ratio']:.2f}",
            f"{row['tokens_per_second']:,.0f}",
            "–" if share is None else f"{100 * share:.0f} %",
            "–" if peak is None else f"{peak / 1000:.1f}",
        ]
        lines.append([row["setting"], str(row["languages"]), *cells])

    header = ["step", "L", "ms", "time", "tokens/s", "of peak", "GB"]
    return markdown(header, lines)


def gpu_encoder() -> str:
    """The benchmark on a GPU, of an encoder that is trained as a whole."""
    return of_gpu(GPU_SHAPES["gpu_encoder"])


def gpu_decoder() -> str:
    """The same of a decoder with a frozen base."""
    return of_gpu(GPU_SHAPES["gpu_decoder"])


def gpu_compiled() -> str:
    """A step whose layers are compiled, beside the same without compilation."""
    return of_gpu(GPU_SHAPES["gpu_encoder"], "benchmark_gpu_compiled")


def fine_tuning() -> str:
    """The same ratios for a token classifier, without a head over the vocabulary."""
    if not has_result("benchmark_fine_tuning_cpu"):
        return NOT_RUN
    return fine_tuning_cost(result("benchmark_fine_tuning_cpu")["rows"], markdown)


def soak() -> str:
    """Kills of the soak, and the parts of the two runs that were compared at the end."""
    soaked = result("soak_cpu")
    rows = [
        ["SIGKILL", len(soaked["kills"])],
        ["SIGKILL during a checkpoint write", soaked["kills_in_saves"]],
        ["parts compared at the end", len(soaked["equal"])],
        ["parts that are bitwise equal", sum(soaked["equal"].values())],
    ]
    return markdown(["soak", "count"], [[name, str(count)] for name, count in rows])


def soak_settings() -> str:
    """The same for other settings, a row each."""
    rows = []
    for name, run in result("soak_settings_cpu")["runs"].items():
        equal = run["equal"].values()
        counts = [len(run["kills"]), run["in_saves"], len(equal), sum(equal)]
        rows.append([f"`{name}`", *map(str, counts)])

    return markdown(["setting", "kills", "in a write", "parts compared", "bitwise equal"], rows)


def shared_lora() -> str:
    """Peak memory of training over a frozen base, by setting, relative to ordinary LoRA."""
    rows = result("benchmark_shared_lora_cpu")["rows"]
    cells = [[row["setting"], f"{row['peak_mb']:.0f}", f"{row['ratio']:.2f}×"] for row in rows]
    return markdown(["training", "peak memory, MB", "relative to ordinary LoRA"], cells)


def radius() -> str:
    """Median (and worst) cosine of the finite-difference indirect part to the exact one."""
    rows = [
        row
        for row in result("benchmark_fidelity_cpu")["rows"]
        if row["setting"].startswith("indirect part")
    ]
    rates = sorted({row["inner_learning_rate"] for row in rows})
    cells = {
        (r["setting"], r["inner_learning_rate"]): f"{r['median']:.4f} ({r['worst']:.4f})"
        for r in rows
    }
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    header = ["scheme and radius", *(f"β = {rate:g}" for rate in rates)]
    names = {name: name.removeprefix("indirect part, ").replace("_", "-") for name in settings}
    return markdown(
        header, [[names[name], *(cells[name, rate] for rate in rates)] for name in settings]
    )


def pairs_of(name: str) -> str:
    rows = [
        [one["pair"], f"{one['cosine']:.2f}", f"{one['low']:.2f} … {one['high']:.2f}"]
        for one in result(name)["pairs"]
    ]
    return markdown(["gradients of", "cosine", "95 % interval"], rows)


def conflict_verses() -> str:
    """Cosines of gradients of pairs of languages and of one language, on the bundled verses."""
    return pairs_of("conflict_on_text")


def mask_overlaps() -> str:
    """The overlap of masks of two languages, and of two seeds of one language."""
    texts = {
        "verses, 4 languages": "conflict_on_text",
        "several sources, 7 languages": "conflict_on_seven_languages",
    }
    names = ("between_languages", "between_seeds", "chance")
    rows = [
        [text, *(f"{result(name)['mask_overlap'][one]:.3f}" for one in names)]
        for text, name in texts.items()
    ]
    return markdown(
        ["text", "between languages", "between seeds of one language", "independent masks"], rows
    )


def factors() -> str:
    """Interference by corpus size, by the other language of a pair, and by width."""
    rows = []
    for name, report in result("interference_factors")["studies"].items():
        for row in report["rows"]:
            numbers = (
                f"{row['monolingual']:.2f}",
                f"{row['joint']:.2f}",
                f"{row['difference']:+.2f}",
            )
            rows.append(
                [name, row["language"], *numbers, f"{row['low']:+.2f} … {row['high']:+.2f}"]
            )
    return markdown(
        ["study", "language", "monolingual", "joint", "interference", "95 % interval"], rows
    )


MEASURES = {
    "mlm_all": "bits per character ↓",
    "pos_within_all": "POS within ↑",
    "ner_within_all": "NER within ↑",
    "pos_zero_shot_all": "POS zero-shot ↑",
    "ner_zero_shot_all": "NER zero-shot ↑",
}
"""The measures of the study over all languages → their names in tables."""


def study() -> dict:
    return result("study_small")["report"]


def interval(mean: float, low: float | None, high: float | None, *, sign: bool = False) -> str:
    number = "{:+.3f}" if sign else "{:.3f}"
    return " ".join(
        [
            number.format(mean),
            *([] if low is None else [f"[{number.format(low)}, {number.format(high)}]"]),
        ]
    )


def study_scores() -> str:
    """Mean over languages of each measure, with the t interval over seeds, by method."""
    means = {name: study()[name]["means"] for name in MEASURES}
    methods = list(dict.fromkeys(["majority", "mono", *study()["compute"]]))
    rows = [
        [name, *(interval(*own[name]) if name in own else "–" for own in means.values())]
        for name in methods
    ]
    return markdown(["method", *MEASURES.values()], rows)


BASELINES = ("joint", "adapters", "adapters_longer", "meta_direct")


def differences(names: dict[str, str]) -> str:
    rows = []
    for name, measure in names.items():
        for one in study()[name]["differences"]:
            if one["baseline"] in BASELINES:
                better = interval(one["mean"], one["low"], one["high"], sign=True)
                wins = f"{one['wins']} of {one['pairs']}"
                rows.append(
                    [
                        measure,
                        one["treatment"],
                        one["baseline"],
                        better,
                        f"{one['p_value']:.3g}",
                        wins,
                    ]
                )
    return markdown(["measure", "treatment", "against", "better by", "p (Holm)", "wins"], rows)


def study_differences() -> str:
    """How much better meta-learned adapters are than their closest baselines, paired over seeds."""
    return differences({name: measure[:-2] for name, measure in MEASURES.items()})


def treatments() -> str:
    """Bits per character of each treatment, its gain over joint training, and its time."""
    report = result("study_treatments")["report"]
    scores, compute = report["mlm_all"], report["compute"]
    gains = {}
    for one in scores["differences"]:
        # The criterion compares joint training with each of the others.
        ends = sorted([-one["low"], -one["high"]])
        gains[one["baseline"]] = [
            interval(-one["mean"], *ends, sign=True),
            f"{one['p_value']:.3g}",
        ]

    rows = []
    for name, mean in sorted(scores["means"].items(), key=lambda item: item[1][0]):
        seconds = compute.get(name, {}).get("cpu_seconds")
        time = "–"
        if seconds is not None:
            time = f"{seconds / compute['joint']['cpu_seconds']:.1f}"
        rows.append([f"`{name}`", f"{mean[0]:.3f}", *gains.get(name, ["–", "–"]), time])

    return markdown(["method", "bits per character", "better than joint by", "p", "time"], rows)


def settings() -> str:
    """Bits per character where the settings of the outer step end, and their time."""
    if not has_result("study_settings"):
        return NOT_RUN

    report = result("study_settings")["report"]
    compute = report["compute"]
    rows = []
    for name, mean in sorted(report["mlm_all"]["means"].items(), key=lambda item: item[1][0]):
        time = compute[name]["cpu_seconds"] / compute["adapters"]["cpu_seconds"]
        rows.append([f"`{name}`", interval(*mean), f"{time:.1f}"])
    return markdown(["setting", "bits per character", "time"], rows)


def settings_differences() -> str:
    """Which settings of the outer step end elsewhere than which others."""
    if not has_result("study_settings"):
        return NOT_RUN

    rows = [
        [
            f"`{one['treatment']}`",
            f"`{one['baseline']}`",
            interval(one["mean"], one["low"], one["high"], sign=True),
            f"{one['p_value']:.3g}",
        ]
        for one in result("study_settings")["report"]["mlm_all"]["differences"]
    ]
    return markdown(["setting", "against", "better by", "p (Holm)"], rows)


def study_pairs() -> str:
    """Bits per character of the other language of bilingual models with English, by method."""
    pairs = study()["mlm_pairs"]
    rows = [
        [name, *(f"{sum(own) / len(own):.3f}" for own in scores), interval(*pairs["means"][name])]
        for name, scores in pairs["scores"].items()
    ]
    return markdown(["method", *pairs["languages"], "mean"], rows)


def study_interference() -> str:
    """What the joint model loses against a model of one language, with intervals over seeds."""
    rows = []
    for name, where in (
        ("interference_mlm_all", "all languages"),
        ("interference_mlm_pairs", "pairs with English"),
    ):
        for row in study()[name]["rows"]:
            lost = interval(row["difference"], row["low"], row["high"], sign=True)
            rows.append(
                [where, row["language"], f"{row['monolingual']:.3f}", f"{row['joint']:.3f}", lost]
            )
    return markdown(["joint model of", "language", "monolingual", "joint", "interference"], rows)


def study_zero_shot() -> str:
    """POS accuracy zero-shot from English, mean over seeds, by method and language."""
    found = study()["pos_zero_shot_all"]
    rows = [
        [name, *(f"{sum(own) / len(own):.3f}" for own in scores)]
        for name, scores in found["scores"].items()
    ]
    return markdown(["method", *found["languages"]], rows)


def study_compute() -> str:
    """The cost of pretraining by each method, relative to joint, and the meta-signal's meter."""
    compute = study()["compute"]
    rows = [
        [
            name,
            f"{row['cpu_seconds'] / compute['joint']['cpu_seconds']:.1f}×",
            f"{row['bytes'] / compute['joint']['bytes']:.2f}×",
            f"{row['examples']:,.0f}",
            f"{row['meta_examples']:,.0f}",
            "–" if row["indirect_ratio"] is None else f"{row['indirect_ratio']:.2f}",
        ]
        for name, row in compute.items()
    ]
    return markdown(
        ["method", "CPU time", "parameters", "examples", "meta examples", "indirect / direct"], rows
    )


def study_tuning() -> str:
    """Bits per character of selection text of each trial."""
    return trials("tuning_small")


def study_defaults() -> str:
    """The same of the fast setting, mean over three seeds."""
    return trials("tuning_defaults")


RENAMED = {"sampling_temperature": "sampling_alpha"}
"""Old name of an argument, as in the records → its name today."""


def trials(name: str) -> str:
    record = result(name)
    rows = []
    for method, tried in record["trials"].items():
        for one in tried:
            settings = ", ".join(
                f"{RENAMED.get(argument, argument)}={value}"
                for argument, value in one["trial"].items()
            )
            best = " (chosen)" if one["trial"] == record["best"][method] else ""
            rows.append([method, settings, f"{one['bits_per_character']:.3f}{best}"])
    return markdown(["method", "settings", "bits per character"], rows)


DIAGNOSTICS = (conflict_verses, mask_overlaps, factors)
STUDY = (
    study_scores,
    study_differences,
    study_interference,
    study_pairs,
    treatments,
    study_zero_shot,
    study_compute,
    study_tuning,
    study_defaults,
)
TABLES: dict[str, Callable[[], str]] = {
    table.__name__: table
    for table in (
        soak,
        soak_settings,
        closeness,
        closeness_of_next,
        cost,
        cost_by_setting,
        cost_of_fewer_rows,
        cost_of_one_row,
        settings,
        settings_differences,
        cost_of_small_adapters,
        cost_of_words,
        fine_tuning,
        shared_lora,
        surgery,
        gramian_noise,
        new_language_curves,
        new_language_differences,
        gpu_encoder,
        gpu_decoder,
        gpu_compiled,
        radius,
        *DIAGNOSTICS,
        *STUDY,
        *little_data.TABLES,
        *small_llm.TABLES,
    )
} | PRETRAINED_TABLES
TABLES |= around_tables(has_result, result, markdown)


def filled(text: str) -> str:
    """A page with its tables as the results have them."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", text)


def with_tables() -> list[Path]:
    return [page for page in pages() if "<!-- table:" in page.read_text(encoding="utf-8")]


if __name__ == "__main__":
    for page in with_tables():
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
