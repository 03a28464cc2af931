"""A model to diagnose: loaded by what its files say it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import transformers
from transformers import AutoConfig, AutoTokenizer

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.evaluation import LanguageScores, evaluate_languages
from hf_meta_adapters.modeling.model import LanguageAdapterModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["DiagnosedModel"]

_TASKS = {"ForMaskedLM": "masked_lm", "ForCausalLM": "causal_lm", "LMHeadModel": "causal_lm"}
_FAMILY = "language_adapters.json"


@dataclass(frozen=True, eq=False)
class DiagnosedModel:
    """A masked or causal language model with its tokenizer.

    Attributes:
        model: The model, in evaluation mode.
        task: `"masked_lm"` or `"causal_lm"`.
        tokenizer: Its tokenizer.
    """

    model: PreTrainedModel | LanguageAdapterModel
    task: str
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def load(cls, name: str | Path, device: str = "cpu") -> DiagnosedModel:
        """Load a model with languages, or any language model of transformers.

        Args:
            name: A folder, or a name on the Hub.
            device: Where to put it.

        Returns:
            The model.

        Raises:
            ConfigurationError: If there is no language model, or no tokenizer.
        """
        try:
            config = AutoConfig.from_pretrained(name)
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigurationError(
                "A model to diagnose must be a folder with config.json, weights and tokenizer, or a"
                f" name on the Hub. Found {name}: {reason} Correct the path, or save model and"
                " tokenizer there by `save_pretrained`."
            ) from error

        architecture, *_ = config.architectures or ["no architecture"]
        tasks = [task for ending, task in _TASKS.items() if architecture.endswith(ending)]
        if not tasks:
            raise ConfigurationError(
                "A model to diagnose must be a masked or causal language model, with its head."
                f" Found {architecture} in {name}. Save it by its class ForMaskedLM or ForCausalLM."
            )

        if (Path(name) / _FAMILY).is_file():
            family = LanguageAdapterModel.from_pretrained(str(name))
            return cls(family.to(device).eval(), tasks[0], tokenizer)

        model_class = getattr(transformers, architecture, None)
        if model_class is None:
            raise ConfigurationError(
                "A model to diagnose must be of a class of transformers. Found"
                f" {architecture} in {name}. Load it yourself, and call `gradient_conflict`,"
                " `learn_language_masks` and `interference_report`."
            )

        model = model_class.from_pretrained(name)
        return cls(model.to(device).eval(), tasks[0], tokenizer)

    def known_languages(
        self, texts: Mapping[Language, Sequence[str]]
    ) -> dict[Language, Sequence[str]]:
        """Return the texts of languages that the model has; a plain checkpoint takes any.

        Args:
            texts: Language → texts.

        Returns:
            The same, without the others.

        Raises:
            DataError: If fewer than two languages are left.
        """
        known = dict(texts)
        if isinstance(self.model, LanguageAdapterModel):
            known = {key: lines for key, lines in texts.items() if key in self.model.languages}

        if len(known) < 2:
            raise DataError(
                "A diagnosis compares two languages of the model at least. Found texts of"
                f" {list(texts)}, of which the model has {list(known)}. Add files of texts, named"
                " by its languages."
            )

        return known

    def score(self, texts: Mapping[Language, Sequence[str]], max_length: int) -> LanguageScores:
        """Return how well the model predicts texts.

        Args:
            texts: Language → texts.
            max_length: Tokens in a row.

        Returns:
            The scores, in bits per character.
        """
        return evaluate_languages(
            self.model,
            self.task,
            {key: [{"text": line} for line in lines] for key, lines in texts.items()},
            processing_class=self.tokenizer,
            max_length=max_length,
            progress=True,
        )

    def cautions(self, scores: LanguageScores) -> tuple[str, ...]:
        """Return a warning if the model predicts a language worse than a blind guess does.

        Args:
            scores: Result of `score`.

        Returns:
            One sentence or none.
        """
        # The loss of a model that finds all tokens equally probable.
        guess = math.log(len(self.tokenizer))
        blind = [key for key, loss in scores.values("loss").items() if loss > guess]
        if not blind:
            return ()

        return (
            f"The model predicts {', '.join(blind)} worse than a blind guess among the"
            f" {len(self.tokenizer):,} tokens of its tokenizer, which has a loss of {guess:.1f}. Is"
            " its head trained, and the tokenizer its own? If not, no result below is about the"
            " model.",
        )
