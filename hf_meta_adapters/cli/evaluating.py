"""`hf-meta-adapters eval`: a family on the tasks of lm-evaluation-harness."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hf_meta_adapters._typing import JsonObject, Language
from hf_meta_adapters.cli.family_tokenizer import saved_tokenizer
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation import LanguageScores
from hf_meta_adapters.evaluation.harness import check_tasks, evaluate_harness
from hf_meta_adapters.evaluation.harness_task import HarnessTask
from hf_meta_adapters.hub.client import Access
from hf_meta_adapters.hub.download import fetch_family, list_languages, local_folder
from hf_meta_adapters.hub.scores import publish_scores, record_scores
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.results.files import write_text

__all__ = ["Evaluation", "evaluate_family", "language_codes"]


@dataclass(frozen=True)
class Evaluation:
    """What is scored, and where the scores go.

    Args:
        source: The family: a folder, or a repository of the Hub.
        tasks: The tasks.
        languages: The languages to score; default all of the family.
        task_folder: A folder with tasks of your own.
        batch_size: Rows per pass.
        device: Where the model runs; default a GPU if there is one.
        revision: A branch, a tag or a commit of the repository.
        output: A folder for `scores.json` and `scores.md`; default none.
        push: Whether the scores go into the repository.
    """

    source: str
    tasks: Sequence[HarnessTask]
    languages: Sequence[Language] | None = None
    task_folder: str | None = None
    batch_size: int = 8
    device: str | None = None
    revision: str | None = None
    output: str | None = None
    push: bool = False

    def __post_init__(self) -> None:
        if self.push and local_folder(self.source) is not None:
            raise ConfigurationError(
                "`--push` records scores in a repository. Found the folder"
                f" {self.source!r}, in which they are recorded in any case. Leave out `--push`."
            )
        if self.push and any(task.limit is not None for task in self.tasks):
            raise ConfigurationError(
                "Scores that are published must be of whole tasks. Found `--push` with `--limit`."
                " Leave out one of them."
            )

    @property
    def is_recorded(self) -> bool:
        """Whether the scores go into the family: those of whole tasks into a folder, or by push."""
        is_whole = all(task.limit is None for task in self.tasks)
        return is_whole and (self.push or local_folder(self.source) is not None)


def evaluate_family(evaluation: Evaluation) -> Iterator[LanguageScores]:
    """Score a family on each task, and record the scores in its manifest and on its card.

    A folder and `output` get the scores of each task when it is done, so that a later task that
    fails takes none of them along; a repository gets all by one commit (`push`). Scores of the
    first examples only (`limit`) are not recorded.

    Args:
        evaluation: What is scored, and where the scores go.

    Returns:
        An iterator over the scores of the tasks, each as soon as it is scored. Nothing runs before
        the first is asked for.

    Raises:
        ConfigurationError: If lm_eval is not installed, or a language has no such task.
        HubError: If the family cannot be loaded, or its scores cannot be recorded.
    """
    source, folder = evaluation.source, local_folder(evaluation.source)
    access = Access(evaluation.revision)
    languages = evaluation.languages or list_languages(source, revision=evaluation.revision)
    check_tasks(evaluation.tasks, languages, evaluation.task_folder)

    _, measured = fetch_family(source, evaluation.languages, access)
    model = LanguageAdapterModel.from_pretrained(
        source, languages=evaluation.languages, revision=evaluation.revision
    )

    device = evaluation.device or ("cuda" if torch.cuda.is_available() else "cpu")
    scores: list[LanguageScores] = []
    for task in evaluation.tasks:
        found = evaluate_harness(
            model,
            task,
            processing_class=saved_tokenizer(source, evaluation.revision),
            task_folder=evaluation.task_folder,
            batch_size=evaluation.batch_size,
            device=device,
        )
        scores.append(found)
        _write(scores, evaluation.output)
        if evaluation.is_recorded and folder is not None:
            record_scores(folder, [found.to_dict()], measured)
        yield found

    if evaluation.is_recorded and folder is None:
        publish_scores(source, [one.to_dict() for one in scores], measured, access)


def _write(scores: Sequence[LanguageScores], output: str | None) -> None:
    """Write the scores so far to a folder, if one is given."""
    if output is None:
        return

    place = Path(output)
    tables: list[JsonObject] = [one.to_dict() for one in scores]
    write_text(place / "scores.json", json.dumps(tables, indent=2, ensure_ascii=False))
    write_text(place / "scores.md", "\n\n".join(one.to_markdown() for one in scores))


def language_codes(words: Sequence[str]) -> dict[Language, str]:
    """Read `language=code` words.

    Args:
        words: The words.

    Returns:
        Language → code.

    Raises:
        ConfigurationError: If a word is of another form.
    """
    codes = {}
    for word in words:
        language, equals, code = word.partition("=")
        if not (language and equals and code):
            raise ConfigurationError(
                "A code must be written as `language=code`. Found"
                f" {word!r}. Write for example `--codes sw=swh_Latn`."
            )
        codes[language] = code
    return codes
