"""The arms of the study of few labels: ways to train one model, or one model for each target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.study.merged_options import merged_options

__all__ = ["FEW_LABEL_ARMS", "WITHOUT_LABELS", "few_label_options"]

Options: TypeAlias = dict[str, Any]
"""`own`, `protocol`, `target_role`, `learning_rate`, `adapter_rate` and `training`."""

WITHOUT_LABELS = "source_only"
"""The arm that uses no labels of the targets, so that it does not depend on their number."""

_HELD: Options = {"indirect_ratio": 1.0}


def _meta(**training: object) -> Options:
    return {"protocol": "meta-few-shot", "training": training}


FEW_LABEL_ARMS: dict[str, Options] = {
    WITHOUT_LABELS: {"protocol": "zero-shot", "own": False},
    "two_stages": {"protocol": "few-shot"},
    "joint": {"protocol": "joint-few-shot", "own": False},
    "adapters": {"protocol": "joint-few-shot"},
    "projected": {"protocol": "projected-few-shot", "training": {"preset": "fast", **_HELD}},
    "exact": _meta(meta_gradient="exact", lookahead="shared", **_HELD),
    "fast": _meta(preset="fast", **_HELD),
    "next": _meta(lookahead="next", finite_difference_scheme="one_sided", **_HELD),
}
"""Arm → what differs from the settings of all arms.

In `projected`, `exact`, `fast` and `next`, the indirect part is as long as the direct part. All of
them but `exact` take one-sided finite differences, which cost one pass.
"""

_DEFAULTS: Options = {
    "own": True,
    "target_role": None,
    "learning_rate": 5e-4,
    "adapter_rate": 1.0,
    "training": {},
}

_RATE, _DIRECT = "rate_", "direct"


def few_label_options(arm: str, common: Mapping[str, Any], tuned: Mapping[str, Any]) -> Options:
    """Return all options of an arm.

    Args:
        arm: Its name in `FEW_LABEL_ARMS`; or `"<arm>+rate_<number>"` for it with another rate of φ,
            as a multiple of that of θ; or `"<arm>+direct"` for it without the indirect part.
        common: The options of all arms.
        tuned: Arm → the options that were chosen for it.

    Returns:
        `protocol` (its name in `PROTOCOLS`), `own` (whether languages have adapters),
        `target_role`, `learning_rate`, `adapter_rate` (of φ, as a multiple of it) and `training`
        (of `MetaAdapterTrainingArguments`).

    Raises:
        ConfigurationError: If there is no such arm.

    Example:
        >>> options = few_label_options("fast+rate_0.1", {}, {"fast": {"learning_rate": 1e-3}})
        >>> options["protocol"], options["learning_rate"], options["adapter_rate"]
        ('meta-few-shot', 0.001, 0.1)
    """
    name, _, change = arm.partition("+")
    options = merged_options(merged_options(_DEFAULTS, common), FEW_LABEL_ARMS.get(name, {}))
    options = merged_options(options, tuned.get(name, {}))

    number = change.removeprefix(_RATE)
    if change != number and number.replace(".", "", 1).isdecimal():
        return {**options, "adapter_rate": float(number)}
    if change == _DIRECT and "indirect_ratio" in options["training"]:
        return _without_indirect(options)

    if name not in FEW_LABEL_ARMS or change:
        raise ConfigurationError(
            f"An arm must be one of {list(FEW_LABEL_ARMS)}; or one of them with a rate, such as"
            ' "fast+rate_0.1"; or, if it has an indirect part, without it: "fast+direct". Found'
            f" {arm!r}."
        )
    return options


def _without_indirect(options: Mapping[str, Any]) -> Options:
    training = {**options["training"], "meta_gradient": "first_order"}
    # A ratio would have nothing to hold, and is refused.
    del training["indirect_ratio"]
    return {**options, "training": training}
