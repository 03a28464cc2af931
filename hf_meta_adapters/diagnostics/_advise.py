"""What to do about interference, given what was found."""

from __future__ import annotations

from hf_meta_adapters.diagnostics.capacity_plan import CapacityPlan
from hf_meta_adapters.diagnostics.finding import Finding

__all__ = ["advise"]

_NOT_A_LOSS = (
    "Treat languages only if they lose something: gradients that conflict, and weights of single"
    " languages, show that languages differ, not that one of them loses."
)


def advise(
    interference: Finding, conflict: Finding, masks: Finding, plan: CapacityPlan | None
) -> tuple[str, ...]:
    """Return what to do, the first thing first.

    Args:
        interference: Whether languages lose.
        conflict: Whether gradients conflict.
        masks: Whether languages need weights of their own.
        plan: Where to put capacity, or `None`.

    Returns:
        A sentence or two for each step.
    """
    if interference.answer == "not measured":
        measure = (
            "Measure the loss first: train a model of each language alone, and pass their folder as"
            " --monolingual FOLDER (in Python: interference_report)."
        )
        return (measure, _NOT_A_LOSS)

    if interference.answer == "unclear":
        return ("Measure the loss more precisely first.", _NOT_A_LOSS)

    if interference.answer == "not shown":
        return (
            "Leave the training as it is: there is no loss that a treatment could win back. For"
            " smaller losses, score more text and more seeds.",
        )

    return (
        "Tune the joint model first: its learning rate, and how often each language is sampled"
        " (sampling_alpha). It is the baseline that every treatment has to beat.",
        _capacity(conflict, masks, plan),
        *_projection(conflict),
        "Train each treatment with several seeds, and compare it with joint training on the same"
        " number of examples.",
    )


def _capacity(conflict: Finding, masks: Finding, plan: CapacityPlan | None) -> str:
    """Return how to give languages parameters of their own, and in which layers."""
    text = (
        "Then give each language parameters of its own: adapters, trained jointly first, or copies"
        " of modules."
    )

    # A plan ranks the layers of any model. Without a difference between languages, it ranks noise.
    differs = "shown" in (conflict.answer, masks.answer)
    if plan is None or not differs:
        return text

    layers = ", ".join(plan.target_layers)
    return f"{text} The layers to begin with: {layers} (plan.configure(config))."


def _projection(conflict: Finding) -> list[str]:
    if conflict.answer != "shown":
        return []

    return [
        'Where gradients oppose one another, shared_update="project" takes out of each step what'
        " would raise the loss on held-out text. That is cheap to try, but there is little evidence"
        " that it pays."
    ]
