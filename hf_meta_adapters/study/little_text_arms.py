"""The arms of the study of little text: adapters, regularizers, meta-gradients and controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.study.merged_options import merged_options

__all__ = ["ARMS", "REGULARIZERS", "arm_options"]

Options: TypeAlias = dict[str, Any]
"""`own`, `trainer`, `radius`, `sizes`, `adapter` and `training`, see `little_text_cell`."""

_TRAIN: Options = {"training": {"adapter_update": "train"}}


def _next(ratio: float, trainer: str = "plain") -> Options:
    return {"trainer": trainer, "training": {"lookahead": "next", "indirect_ratio": ratio}}


REGULARIZERS = ("dropout", "adapter_dropout", "weight_decay", "smaller", "sharpness")
"""The arms whose strength is chosen on selection text."""

ARMS: dict[str, Options] = {
    "joint": {"own": False, **_TRAIN},
    "adapters": _TRAIN,
    "dropout": _TRAIN,
    "adapter_dropout": _TRAIN,
    "weight_decay": _TRAIN,
    "smaller": _TRAIN,
    "sharpness": {"trainer": "sharpness", **_TRAIN},
    "next_0.3": _next(0.3),
    "next_1": _next(1.0),
    "next_2": _next(2.0),
    "fast_1": {"training": {"preset": "fast", "indirect_ratio": 1.0}},
    "paper_1": {"training": {"preset": "paper", "indirect_ratio": 1.0}},
    "random_1": _next(1.0, "random"),
    "flipped_1": _next(1.0, "flipped"),
}
"""Arm → what differs from the settings of all arms.

The numbers are the `indirect_ratio`. `random_1` and `flipped_1` are the controls of `next_1`: their
indirect part is as long, and has a random direction or the opposite sign.
"""

_DEFAULTS: Options = {
    "own": True,
    "trainer": "plain",
    "radius": 0.0,
    "sizes": {},
    "adapter": {},
    "training": {},
}


def arm_options(arm: str, common: Mapping[str, Any], tuned: Mapping[str, Any]) -> Options:
    """Return all options of an arm.

    Args:
        arm: Its name in `ARMS`, or `"<arm>+<regularizer>"` for both at once.
        common: The options of all arms.
        tuned: Regularizer → its options.

    Returns:
        `own` (whether languages have adapters), `trainer` (`"plain"`, `"sharpness"`, `"random"`,
        `"flipped"`), `radius` (of sharpness-aware minimization), `sizes` (of the model's config),
        `adapter` (of `BottleneckConfig`) and `training` (of `MetaAdapterTrainingArguments`).

    Raises:
        ConfigurationError: If there is no such arm.

    Example:
        >>> tuned = {"dropout": {"sizes": {"hidden_dropout_prob": 0.1}}}
        >>> options = arm_options("next_1+dropout", {"sizes": {"hidden_size": 64}}, tuned)
        >>> options["sizes"], options["training"]["indirect_ratio"]
        ({'hidden_size': 64, 'hidden_dropout_prob': 0.1}, 1.0)
    """
    name, _, regularizer = arm.partition("+")
    if name not in ARMS or regularizer not in ("", *REGULARIZERS):
        raise ConfigurationError(
            f"An arm must be one of {list(ARMS)}, or one of them with `+` and one of"
            f" {list(REGULARIZERS)}. Found {arm!r}."
        )

    options = merged_options(merged_options(_DEFAULTS, common), ARMS[name])
    for part in (name, regularizer):
        options = merged_options(options, tuned.get(part, {}))
    return options
