"""The arms of the study of a pretrained model: ways to train it further on text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.study.merged_options import merged_options
from hf_meta_adapters.study.methods import METHODS, Method

__all__ = ["AS_IT_IS", "PRETRAINED_ARMS", "pretrained_options"]

Options: TypeAlias = dict[str, Any]
"""`learning_rate`, `adapter_rate` and `training`."""

AS_IT_IS = "none"
"""The arm whose model is not trained on text at all."""

# One joint run with everything at once: models are merged and copies planned in two halves, and
# Sequential Reptile has one language in a step.
_LEFT_OUT = ("mono", "sequential_reptile", "merged_linear", "merged_ties", "planned_copies")

PRETRAINED_ARMS: dict[str, Method] = {
    AS_IT_IS: Method(steps=0.0),
    **{name: method for name, method in METHODS.items() if name not in _LEFT_OUT},
    # Its one adapter belongs to θ.
    "shared_adapter": replace(METHODS["shared_adapter"], like="joint"),
    # A look-ahead for each language needs passes for each language.
    "meta_paper": replace(
        METHODS["meta_paper"], training={"preset": "paper", "languages_per_pass": 1}
    ),
    "meta_next": Method(
        "bottleneck",
        {"lookahead": "next", "finite_difference_scheme": "one_sided", "indirect_ratio": 1.0},
    ),
}
"""Arm → the part of the model that each language has for itself, and how it is trained.

Those of `METHODS` that take one run in all languages; the model as it is; and `meta_next`, whose
meta-gradient goes through the step that the optimizer takes, and whose indirect part is as long as
the direct part.
"""

_DEFAULTS: Options = {"learning_rate": 1e-4, "adapter_rate": 1.0, "training": {}}

_OF_INDIRECT = ("indirect_ratio", "max_indirect_ratio")


def pretrained_options(arm: str, common: Mapping[str, Any], tuned: Mapping[str, Any]) -> Options:
    """Return all options of an arm.

    Args:
        arm: Its name in `PRETRAINED_ARMS`.
        common: The options of all arms.
        tuned: Arm → the options that were chosen for it; an arm without any has those of the arm
            that it is `like`.

    Returns:
        `learning_rate`, `adapter_rate` (of φ, as a multiple of it) and `training` (of
        `MetaAdapterTrainingArguments`, those of the method among them).

    Raises:
        ConfigurationError: If there is no such arm.

    Example:
        >>> tuned = {"adapters": {"learning_rate": 1e-3, "adapter_rate": 4.0}}
        >>> options = pretrained_options("adapters_longer", {}, tuned)
        >>> options["learning_rate"], options["adapter_rate"]
        (0.001, 4.0)
    """
    if arm not in PRETRAINED_ARMS:
        raise ConfigurationError(f"An arm must be one of {list(PRETRAINED_ARMS)}. Found {arm!r}.")

    method = PRETRAINED_ARMS[arm]
    options = merged_options(merged_options(_DEFAULTS, common), tuned.get(method.like, {}))
    options = merged_options(options, tuned.get(arm, {}))
    options = merged_options(options, {"training": method.training})

    # Without an indirect part there is nothing to hold at a size, and the arguments refuse it.
    if options["training"].get("meta_gradient") == "first_order":
        for name in _OF_INDIRECT:
            options["training"].pop(name, None)
    return options
