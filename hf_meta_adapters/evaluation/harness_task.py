"""A task of lm-evaluation-harness in the languages of a model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError, check_known_language

__all__ = ["HarnessTask"]

PLACE = "{language}"
"""What stands for the language in the name of a task."""


@dataclass(frozen=True)
class HarnessTask:
    """A task of lm-evaluation-harness in several languages.

    Args:
        name: The name in the harness, with `{language}` where the language stands, such as
            `"xcopa_{language}"`. A name without it is one task for the adapters of all languages.
        codes: Language → what stands for it in the name, where that is not its key:
            `{"sw": "swh_Latn"}`.
        metric: The metric that stands for the task; default the first that the task lists.
        num_fewshot: How many examples a prompt shows; default what the task says.
        limit: Score only the first examples of each language, to try a command. Default all.
        chat_template: Whether prompts go through the chat template of the tokenizer.

    Raises:
        ConfigurationError: If a number is not one that the harness can use.

    Example:
        >>> task = HarnessTask("belebele_{language}", codes={"sw": "swh_Latn"})
        >>> task.names(["sw", "xx"]), task.title
        ({'sw': 'belebele_swh_Latn', 'xx': 'belebele_xx'}, 'belebele')
    """

    name: str
    codes: Mapping[Language, str] = field(default_factory=dict)
    metric: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    chat_template: bool = False

    def __post_init__(self) -> None:
        for name, least in (("num_fewshot", 0), ("limit", 1)):
            value = vars(self)[name]
            if value is not None and (type(value) is not int or value < least):
                raise ConfigurationError(
                    f"`{name}` must be a whole number of at least {least}, or None. Found"
                    f" {value!r}. Leave it out for the default."
                )

    @property
    def title(self) -> str:
        """What the task is called in tables: the name without a language, and what is unusual."""
        title = re.sub(r"[_-]*\{language\}[_-]*", "_", self.name).strip("_-") or "tasks"
        if self.num_fewshot is not None:
            title += f", {self.num_fewshot}-shot"
        if self.limit is not None:
            title += f", first {self.limit} examples"
        return title

    def names(self, languages: Sequence[Language]) -> dict[Language, str]:
        """Return language → the name of its task in the harness.

        Args:
            languages: The languages to score.

        Returns:
            The names.

        Raises:
            LanguageError: If `codes` has a language that is not among them.
            ConfigurationError: If there are codes, and no place for them in the name.
        """
        for language in self.codes:
            check_known_language(language, languages, what="the languages to score")

        if self.codes and PLACE not in self.name:
            raise ConfigurationError(
                f"A code stands for a language where the name of a task has `{PLACE}`. Found the"
                f" codes {dict(self.codes)} and the name {self.name!r}. Write for example"
                f" {self.name + '_' + PLACE!r}, or leave out the codes."
            )

        return {
            language: self.name.replace(PLACE, self.codes.get(language, language))
            for language in languages
        }
