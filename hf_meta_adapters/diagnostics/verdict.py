"""What a diagnosis amounts to: what is lost, where, what is noise, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hf_meta_adapters.diagnostics._advise import advise
from hf_meta_adapters.diagnostics._judge_conflict import judge_conflict
from hf_meta_adapters.diagnostics._judge_interference import judge_interference
from hf_meta_adapters.diagnostics._judge_masks import judge_masks
from hf_meta_adapters.diagnostics.capacity_plan import CapacityPlan
from hf_meta_adapters.diagnostics.conflict_matrix import ConflictMatrix
from hf_meta_adapters.diagnostics.finding import Finding
from hf_meta_adapters.diagnostics.interference import InterferenceReport
from hf_meta_adapters.diagnostics.overlap_matrix import OverlapMatrix

__all__ = ["TREATMENTS", "Verdict"]

TREATMENTS = "docs/how-to/choose_a_treatment.md"
"""The page that the advice comes from."""

_NOTE = (
    "“Shown” means that the interval excludes 0 even when it is widened for the number of"
    " comparisons; of masks, that chance would rarely do as much."
)


@dataclass(frozen=True)
class Verdict:
    """What a diagnosis amounts to.

    Attributes:
        headline: The answer in a sentence.
        interference: Which languages lose by joint training.
        conflict: Which gradients oppose one another, and in which layers.
        masks: Which languages need weights of their own.
        advice: What to do, the first thing first.
        cautions: What casts doubt on all of it.

    Example:
        >>> from hf_meta_adapters import interference_report
        >>> alone = {"en": [80.0, 81.0, 80.5, 80.4], "sw": [60.0, 61.0, 60.2, 60.4]}
        >>> joint = {"en": [78.9, 79.9, 79.3, 79.4], "sw": [60.1, 60.9, 60.3, 60.2]}
        >>> verdict = Verdict.of(interference=interference_report(alone, joint, metric="F1"))
        >>> verdict.headline
        'Joint training costs 1 of 2 languages: en.'
    """

    headline: str
    interference: Finding
    conflict: Finding
    masks: Finding
    advice: tuple[str, ...]
    cautions: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        *,
        interference: InterferenceReport | None = None,
        conflict: ConflictMatrix | None = None,
        overlap: OverlapMatrix | None = None,
        plan: CapacityPlan | None = None,
        cautions: Sequence[str] = (),
    ) -> Verdict:
        """Return the verdict on one model; a measure that is missing is said to be missing.

        Args:
            interference: Result of `interference_report`.
            conflict: Result of `gradient_conflict`, best with `per_layer=True`.
            overlap: Result of `mask_overlap`.
            plan: Result of `plan_language_capacity`.
            cautions: What else casts doubt on the results, a sentence each.

        Returns:
            The verdict.
        """
        loss = judge_interference(interference)
        opposed, masks = judge_conflict(conflict), judge_masks(overlap)

        number_of_languages = 0
        if interference is not None:
            number_of_languages = len(interference.languages)
        headline = _headline(loss, opposed, number_of_languages)

        advice = advise(loss, opposed, masks, plan)
        return cls(headline, loss, opposed, masks, advice, tuple(cautions))

    def to_dict(self) -> dict[str, object]:
        """Return the verdict as strings, lists and dicts for JSON."""
        return {
            "headline": self.headline,
            "cautions": list(self.cautions),
            "interference": self.interference.to_dict(),
            "conflict": self.conflict.to_dict(),
            "masks": self.masks.to_dict(),
            "advice": list(self.advice),
            "treatments": TREATMENTS,
        }

    def to_markdown(self) -> str:
        """Return the headline, a list of what was found, and a list of what to do."""
        questions = (
            ("Do languages lose?", self.interference),
            ("Do their gradients conflict?", self.conflict),
            ("Do they need weights of their own?", self.masks),
        )
        found = [f"- {asked} **{_capital(one.answer)}.** {one.text}" for asked, one in questions]
        steps = [f"{number}. {step}" for number, step in enumerate(self.advice, start=1)]

        return "\n\n".join(
            (
                f"**{self.headline}**",
                *(f"**Caution:** {caution}" for caution in self.cautions),
                "\n".join(found),
                "**What to do**",
                "\n".join(steps),
                f"How to choose: {TREATMENTS}. {_NOTE}",
            )
        )


def _headline(interference: Finding, conflict: Finding, number_of_languages: int) -> str:
    if interference.answer == "shown":
        lose = interference.languages
        names = ", ".join(lose)
        if number_of_languages == 1:
            return f"Joint training costs {names}."
        if len(lose) == number_of_languages:
            return f"Joint training costs all {number_of_languages} languages: {names}."
        return f"Joint training costs {len(lose)} of {number_of_languages} languages: {names}."

    if interference.answer == "not shown":
        return "No language is shown to lose by joint training."

    start = "Whether languages lose by joint training was not measured"
    if interference.answer == "unclear":
        start = "Whether languages lose by joint training is unclear"

    if conflict.answer == "shown":
        return f"{start}; some of their gradients conflict."
    if conflict.answer == "not shown":
        return f"{start}; no conflict is visible."
    return f"{start}."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
