"""The sections of a model card; one about something that was not recorded is left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

from hf_meta_adapters._version import __version__
from hf_meta_adapters.hub._run_record import (
    COSINES,
    Scores,
    baseline_scores,
    data_rows,
    number,
    own_scores,
    settings,
)
from hf_meta_adapters.hub.manifest import SHARED_ADAPTER, Family
from hf_meta_adapters.results.tables import markdown_table

_CITATION = """```bibtex
@inproceedings{wang-etal-2020-negative,
  title = {On Negative Interference in Multilingual Models: Findings and A Meta-Learning Treatment},
  author = {Wang, Zirui and Lipton, Zachary C. and Tsvetkov, Yulia},
  booktitle = {Proceedings of the 2020 Conference on Empirical Methods in Natural Language Processing (EMNLP)},
  year = {2020},
  pages = {4438--4450},
  url = {https://aclanthology.org/2020.emnlp-main.359/}
}
```"""
Name = Callable[[str], str]


def sections(family: Family, repo_id: str, name: Name) -> Iterator[str]:
    """The generated part, paragraph by paragraph.

    Args:
        family: What there is, and what was recorded of it.
        repo_id: The repository; "" if it is not known.
        name: From a language to its name.
    """
    yield from _what(family, name)
    yield from _how_to_load(family, repo_id or "the/repository")
    yield from _scores(family, name)
    if family.details.get("gradient_cosine_picture") == COSINES:
        yield (
            "## Gradient conflict\n\n![Cosines between the gradients of the languages,"
            f" measured.]({COSINES})"
        )
    yield from _training(family, name)
    yield f"## Citation\n\n{_CITATION}"
    yield f"Versions: {', '.join(_versions(family))}."


def _what(family: Family, name: Name) -> Iterator[str]:
    languages = ", ".join(map(name, family.languages))
    adapters = {"none": "without language-specific parameters"}.get(
        family.backend, "with one adapter per language"
    )
    if family.share_adapter:
        adapters = f"with one adapter for all languages, in `{SHARED_ADAPTER}/`"
    yield f"A `{family.base_class}` {adapters}, shared weights for all. Languages: {languages}."
    if family.base_model:
        commit = f" at commit `{_cell(family.base_revision)}`" if family.base_revision else ""
        yield (
            f"The base is not in this repository: it is `{_cell(family.base_model)}`{commit},"
            f" frozen. What all languages share is the adapter in `{SHARED_ADAPTER}/`."
        )


def _how_to_load(family: Family, repo_id: str) -> Iterator[str]:
    key = family.languages[0]
    yield (
        "## Use\n\nOnly the files of the languages that are asked for are"
        " downloaded:\n\n```python\n"
        "from hf_meta_adapters import LanguageAdapterModel\n\n"
        f'model = LanguageAdapterModel.from_pretrained("{repo_id}", languages=["{key}"])\n'
        f'outputs = model(language="{key}", **inputs)\n```'
    )
    adapter = SHARED_ADAPTER if family.share_adapter else key
    kind, source = family.base_class, family.base_model or repo_id
    base = f'base = {kind}.from_pretrained("{source}")\n'
    imported = f"from transformers import {kind}\n\n"
    if family.backend == "peft" and not family.shared_adapter:
        note = (
            "\nThe bottleneck and module-copy adapters of the package need `import"
            " hf_meta_adapters` beforehand."
        )
        yield (
            f"Without the package:\n\n```python\nfrom peft import PeftModel\n{imported}{base}"
            f'model = PeftModel.from_pretrained(base, "{repo_id}",'
            f' subfolder="{adapter}")\n```\n{note}'
        )
    elif family.backend == "adapters":
        yield (
            "Without the package:\n\n```python\nimport adapters\nfrom huggingface_hub import"
            " snapshot_download\n"
            f'{imported}{base}adapters.init(base)\nfolder = snapshot_download("{repo_id}", '
            f'allow_patterns="{adapter}/*")\nname = base.load_adapter(f"{{folder}}/{adapter}",'
            " use_safetensors=True)\n"
            "base.set_active_adapters(name)\n```"
        )
    elif family.backend == "none":
        yield f"Without the package:\n\n```python\n{imported}{base}```"


def _scores(family: Family, name: Name) -> Iterator[str]:
    own, others = own_scores(family), baseline_scores(family)
    for number_, scores in enumerate(own):
        same = [
            (label, one)
            for label, one in others
            if (one.task, one.metric) == (scores.task, scores.metric)
        ]
        columns = [("this model", scores), *same]
        rows = [
            [name(key), *(_value(one, key) for _, one in columns)]
            for key in family.languages
            if any(key in one.values for _, one in columns)
        ]
        where = f" on {_cell(scores.dataset)}" if scores.dataset else ""
        source = (
            f" Trained on labels in {_cell(scores.source_language)}."
            if scores.source_language
            else ""
        )
        title = "## Scores\n\n" if number_ == 0 else ""
        yield f"{title}{_cell(scores.task)}: {_cell(scores.metric)}{where}, as measured.{source}"
        yield markdown_table(["language", *(_cell(label) for label, _ in columns)], rows)


def _training(family: Family, name: Name) -> Iterator[str]:
    data, options, seconds = (
        data_rows(family),
        list(settings(family)),
        number(family.details.get("train_runtime")),
    )
    if data or options or seconds is not None:
        yield "## Training"
    if data:
        rows = [[name(key), train or "–", meta or "–"] for key, train, meta in data]
        yield markdown_table(["language", "training rows", "meta rows"], rows)
    if options:
        yield markdown_table(
            ["setting", "value"], [[f"`{_cell(key)}`", _cell(value)] for key, value in options]
        )
        for alpha in ("sampling_alpha", "sampling_temperature"):  # the name of earlier versions
            if alpha in dict(options):
                yield f"Languages are sampled by q_l ∝ n_l^α, where α is `{alpha}`."
    if seconds is not None:
        yield f"Training took {seconds:,.0f} seconds."


def _value(scores: Scores, key: str) -> str:
    return f"{scores.values[key]:.4g}" if key in scores.values else "–"


def _versions(family: Family) -> Iterator[str]:
    yield f"hf_meta_adapters {__version__}"
    for package in (
        "transformers",
        "torch",
        *([family.backend] if family.backend != "none" else []),
    ):
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            continue


def _cell(text: object) -> str:
    """Text that may come from somebody else, as one harmless cell of a table."""
    return re.sub(r"[|<>`\[\]\s]+", " ", str(text)).strip()[:200]
