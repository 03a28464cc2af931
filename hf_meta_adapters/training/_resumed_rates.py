"""Rates and schedule of a resumed run: those that were asked for now, not those of the checkpoint.

The state of an optimizer holds its settings as well, and loading it would restore the old ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import torch
from accelerate.scheduler import AcceleratedScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from hf_meta_adapters.errors import CheckpointError
from hf_meta_adapters.training._optimizer_groups import unwrapped
from hf_meta_adapters.training._resumed_arguments import plain

_MAY_CHANGE = ("weight_decay", "betas", "eps")
"""Settings of a parameter group, beside the rate, that go with any state of an optimizer."""

_IMPLEMENTATION = ("fused", "foreach", "capturable", "differentiable", "param_names")
_SCALARS = (bool, int, float, str, tuple, list, type(None))
_POSITIONS = ("last_epoch", "base_lrs", "lr_lambdas")


class RateSettings(TypedDict):
    """The settings of an optimizer and a schedule that have taken no step, JSON.

    Attributes:
        groups: For each parameter group the settings that may change; `lr` is the rate before the
            schedule.
        optimizer: All others of the groups, by name.
        schedule: Those of the schedule; of one that is a function of the step, only its class.
    """

    groups: list[dict[str, Any]]
    optimizer: dict[str, object]
    schedule: dict[str, object]


def rate_settings(optimizer: torch.optim.Optimizer, scheduler: object) -> RateSettings:
    """The settings of an optimizer and a schedule that have taken no step.

    Args:
        optimizer: The optimizer.
        scheduler: The schedule.

    Returns:
        The settings.
    """
    schedule = _unwrapped_schedule(scheduler)
    of_schedule: dict[str, object] = {"schedule": type(schedule).__name__}

    # The others keep their settings among their state, where loading replaces them.
    if not isinstance(schedule, LambdaLR):
        for name, value in _scalars(vars(schedule)).items():
            if not name.startswith("_") and name not in _POSITIONS:
                of_schedule[f"schedule.{name}"] = value

    of_optimizer = {}
    for number, group in enumerate(unwrapped(optimizer).param_groups):
        for name, value in _scalars(group).items():
            if name not in (*_MAY_CHANGE, *_IMPLEMENTATION, "params", "lr", "initial_lr"):
                of_optimizer[f"optimizer.{name} of group {number}"] = value

    return {"groups": _groups(optimizer), "optimizer": of_optimizer, "schedule": of_schedule}


def take_over_rates(
    optimizer: torch.optim.Optimizer,
    scheduler: object,
    *,
    saved: RateSettings | None,
    wanted: RateSettings,
    checkpoint: str,
) -> None:
    """Give optimizer and schedule, whose states have been loaded, the settings of this run.

    What has not changed stays as it was loaded, whatever a callback has made of it.

    Args:
        optimizer: The optimizer.
        scheduler: The schedule.
        saved: The settings of the run that was interrupted; `None` for those that were loaded.
        wanted: The settings of this run.
        checkpoint: The checkpoint, for messages.

    Raises:
        CheckpointError: If a rate has changed under a schedule that is no function of the step.
    """
    schedule = _unwrapped_schedule(scheduler)
    before = saved["groups"] if saved else _groups(optimizer)

    groups = unwrapped(optimizer).param_groups
    for group, old, new in zip(groups, before, wanted["groups"], strict=True):
        changed = {name: value for name, value in new.items() if old.get(name, value) != value}

        if "lr" in changed:
            _check_function_of_step(schedule, old["lr"], new["lr"], checkpoint)
            group["initial_lr"] = changed.pop("lr")
        for name, value in changed.items():
            group[name] = tuple(value) if isinstance(value, list) else value

    if isinstance(schedule, LambdaLR):
        _set_present_rates(groups, schedule)


def _set_present_rates(groups: list[dict[str, Any]], schedule: LambdaLR) -> None:
    """Set the rates of the next step to those that the schedule has for it."""
    schedule.base_lrs = [group["initial_lr"] for group in groups]
    factors = [function(schedule.last_epoch) for function in schedule.lr_lambdas]
    rates = [rate * factor for rate, factor in zip(schedule.base_lrs, factors, strict=True)]

    # Only where schedule or rate have changed: a callback may have set another rate for a while.
    for group, rate, last in zip(groups, rates, schedule.get_last_lr(), strict=True):
        if rate != last:
            group["lr"] = rate
    schedule._last_lr = rates


def _check_function_of_step(schedule: object, old: object, new: object, checkpoint: str) -> None:
    if isinstance(schedule, LambdaLR):
        return

    raise CheckpointError(
        "The learning rate of a resumed run can only change under a schedule that is a function of"
        f" the step. Found, in {checkpoint}, {old!r} where this run has {new!r}, under"
        f" `{type(schedule).__name__}`. Restore the old value, or start a new run from its weights:"
        " `model.load_weights(...)`."
    )


def _groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    groups = []
    for group in unwrapped(optimizer).param_groups:
        rate = group.get("initial_lr", group["lr"])
        settings = {"lr": float(rate) if isinstance(rate, Tensor) else plain(rate)}
        for name in _MAY_CHANGE:
            if name in group:
                settings[name] = plain(group[name])
        groups.append(settings)
    return groups


def _scalars(settings: Mapping[str, object]) -> dict[str, object]:
    return {name: plain(one) for name, one in settings.items() if isinstance(one, _SCALARS)}


def _unwrapped_schedule(scheduler: object) -> object:
    if isinstance(scheduler, AcceleratedScheduler):
        return scheduler.scheduler
    return scheduler
