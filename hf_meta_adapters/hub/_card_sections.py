"""The sections of a model card; nothing is said about what was not recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata, version

from hf_meta_adapters._typing import Language
from hf_meta_adapters._version import __version__
from hf_meta_adapters.hub._bibliography import PAPER, bibtex
from hf_meta_adapters.hub._card_files import CardFiles
from hf_meta_adapters.hub._card_usage import NAME, cell, description, usage
from hf_meta_adapters.hub._language_names import language_name
from hf_meta_adapters.hub._measurements import (
    Scores,
    baseline_scores,
    data_rows,
    data_sets,
    number,
    own_scores,
    settings,
)
from hf_meta_adapters.hub.manifest import Family
from hf_meta_adapters.hub.record import COSINES
from hf_meta_adapters.results.tables import markdown_table


def sections(family: Family, files: CardFiles, repo_id: str) -> Iterator[str]:
    """The generated part, paragraph by paragraph.

    Args:
        family: The manifest, with what was recorded of the model.
        files: The files beside the card.
        repo_id: The repository; "" if it is unknown.
    """
    yield from description(family)
    yield from usage(family, files, repo_id or "the/repository")

    for number_of_task, scores in enumerate(own_scores(family)):
        if number_of_task == 0:
            yield f"## Scores\n\n{_caption(scores)}"
        else:
            yield _caption(scores)
        yield _score_table(family, scores)

    if family.details.get("gradient_cosine_picture") == COSINES:
        picture = f"![Cosines between the gradients of the languages, measured.]({COSINES})"
        yield f"## Gradient conflict\n\n{picture}"

    training = list(_training(family))
    if training:
        yield "## Training"
        yield from training

    yield f"## Citation\n\n```bibtex\n{bibtex(PAPER)}\n```"
    yield f"Made with [{NAME}]({_homepage()}). Versions: {', '.join(_versions(family))}."


def _homepage() -> str:
    """The page of the project, as the package names it, or that of the installed package."""
    with suppress(PackageNotFoundError):
        for entry in metadata(NAME).get_all("Project-URL") or []:
            label, _, address = entry.partition(", ")
            if label.lower() == "homepage":
                return str(address)

    return f"https://pypi.org/project/{NAME}/"


def _caption(scores: Scores) -> str:
    caption = f"{cell(scores.task)}: {cell(scores.metric)}"
    if scores.dataset:
        caption += f" on {cell(scores.dataset)}"
    caption += ", as measured."

    if scores.source_language:
        caption += f" Trained on labels in {cell(scores.source_language)}."
    return caption


def _score_table(family: Family, scores: Scores) -> str:
    """The scores of the model beside those of the baselines on the same task by the same metric."""
    columns = [("this model", scores)]
    for label, baseline in baseline_scores(family):
        if (baseline.task, baseline.metric) == (scores.task, scores.metric):
            columns.append((label, baseline))

    rows = []
    for key in family.languages:
        # A language that nobody was scored on gets no row.
        if any(key in column.values for _, column in columns):
            rows.append([language_name(key), *(_shown(column, key) for _, column in columns)])

    return markdown_table(["language", *(cell(label) for label, _ in columns)], rows)


def _shown(scores: Scores, key: Language) -> str:
    if key not in scores.values:
        return "–"
    return f"{scores.values[key]:.4g}"


def _training(family: Family) -> Iterator[str]:
    names = data_sets(family)
    if names:
        links = (f"[{cell(name)}](https://huggingface.co/datasets/{name})" for name in names)
        yield f"Data: {', '.join(links)}."

    data = data_rows(family)
    if data:
        rows = [[language_name(key), train or "–", meta or "–"] for key, train, meta in data]
        yield markdown_table(["language", "training rows", "meta rows"], rows)

    options = list(settings(family))
    if options:
        rows = [[f"`{cell(name)}`", cell(value)] for name, value in options]
        yield markdown_table(["setting", "value"], rows)

        yield from _sampling(dict(options))

    seconds = number(family.details.get("train_runtime"))
    if seconds is not None:
        yield f"Training took {seconds:,.0f} seconds."


def _sampling(options: Mapping[str, str]) -> Iterator[str]:
    """What the settings of sampling mean."""
    sampling = options.get("sampling", "temperature")
    if sampling == "unimax":
        yield (
            "Languages are sampled equally often, but no row more than `sampling_max_epochs` times"
            " (UniMax)."
        )
    if sampling == "cooldown":
        yield (
            "Languages are sampled by q_l ∝ n_l^α, where α rises from `sampling_alpha` to"
            f" {options.get('sampling_end_alpha', '1')} in the course of the run (Cooldown)."
        )
    if sampling != "temperature":
        return

    # Earlier versions called α a temperature, which elsewhere is T = 1/α.
    for alpha in ("sampling_alpha", "sampling_temperature"):
        if alpha in options:
            yield f"Languages are sampled by q_l ∝ n_l^α, where α is `{alpha}`."


def _versions(family: Family) -> Iterator[str]:
    yield f"hf_meta_adapters {__version__}"

    packages = ["transformers", "torch"]
    if family.backend != "none":
        packages.append(family.backend)

    for package in packages:
        # A user's own backend has a name, but need not be a package.
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
