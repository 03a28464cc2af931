"""Scores of a model under other adapters than those of the languages that are scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hf_meta_adapters._typing import Language
from hf_meta_adapters.anatomy.passes import device_of
from hf_meta_adapters.evaluation import LanguageScores
from hf_meta_adapters.modeling.model import LanguageAdapterModel

__all__ = ["TARGET", "VARIANTS", "score_variants"]

TARGET = "target"

VARIANTS = (TARGET, "source", "no", "mean")
"""The φ that a language is scored with: its own; that of the source; a fresh one, which is the
identity; and the mean of those of all languages.
"""

Score = Callable[[Mapping[Language, Language]], LanguageScores]
"""Scores every language with the adapter that a mapping names."""


def score_variants(
    model: LanguageAdapterModel, score: Score, source: Language
) -> dict[str, dict[Language, float]]:
    """Score every language with φ of the source, with none, and with the mean over languages.

    Args:
        model: The model; it keeps the two adapters that are added for it.
        score: Scores it.
        source: The language of the labels.

    Returns:
        The variants but the target's own φ → language → score; none if languages have no
        parameters of their own.
    """
    if model.share_adapter or model.backend.name == "none":
        return {}

    # On the CPU, where fresh adapters are made.
    languages, device = model.languages, device_of(model)
    model.cpu()
    model.add_language("no-phi")
    model.add_language("mean-phi", copy_from=dict.fromkeys(languages, 1 / len(languages)))
    model.to(device).eval()

    adapters = {"source": source, "no": "no-phi", "mean": "mean-phi"}
    return {
        variant: score(dict.fromkeys(languages, adapter)).values()
        for variant, adapter in adapters.items()
    }
