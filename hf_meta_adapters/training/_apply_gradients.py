"""From gradients to optimizers: parameter groups, `.grad`, and a stop where a loss is not finite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hf_meta_adapters.errors import NonFiniteLossError
from hf_meta_adapters.meta import JointGradients, MetaGradients
from hf_meta_adapters.meta.vectors import whole
from hf_meta_adapters.modeling.model import LanguageAdapterModel

Gradients: TypeAlias = JointGradients | MetaGradients


def split_groups(
    optimizer: torch.optim.Optimizer, own: Sequence[Tensor], learning_rate: float
) -> None:
    """Move the parameters φ of an optimizer into groups of their own, in place.

    Args:
        optimizer: An optimizer that has not taken a step.
        own: φ of all languages.
        learning_rate: The rate of the new groups.
    """
    identities = {id(parameter) for parameter in own}
    for group in list(optimizer.param_groups):
        mine = [parameter for parameter in group["params"] if id(parameter) in identities]
        if not mine:
            continue
        group["params"] = [
            parameter for parameter in group["params"] if id(parameter) not in identities
        ]
        optimizer.add_param_group({**group, "params": mine, "lr": learning_rate})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def apply_gradients(
    model: LanguageAdapterModel,
    gradients: Gradients,
    update: str,
    scale: Tensor | None = None,
    *,
    shared: bool = True,
) -> None:
    """Set `.grad` of θ and of the φ_l of the step; what has no gradient gets `None`, so that no optimizer touches it.

    Args:
        model: The model.
        gradients: The gradients.
        update: What φ is updated by: the names "meta" and "train" in it say which gradients are
            added up, of those that there are.
        scale: A factor (the loss scale of fp16).
        shared: Whether θ is updated too.
    """
    for name, parameter in model.shared_parameters().items():
        found = gradients.shared.get(name) if shared else None
        parameter.grad = _scaled(found, scale)
    parts = [gradients.train] if "train" in update else []
    if "meta" in update and isinstance(gradients, MetaGradients):
        parts.append(gradients.language)
    for key in model.languages:
        for name, parameter in model.language_parameters(key).items():
            terms = [part[key][name] for part in parts if name in part.get(key, {})]
            total = terms[0] + terms[1] if len(terms) == 2 else terms[0] if terms else None
            parameter.grad = _scaled(total, scale)


def check_finite(gradients: Gradients, step: int, output_dir: str | Path) -> None:
    """Stop before an update if a loss or a gradient of the step is not finite.

    Args:
        gradients: The gradients and losses of the global batch: all processes stop together.
        step: The number of optimizer steps taken.
        output_dir: Where checkpoints are.

    Raises:
        NonFiniteLossError: Naming the languages, the step and the last checkpoint.
    """
    values = {f"training loss of {key!r}": value for key, value in gradients.train_loss.items()}
    if isinstance(gradients, MetaGradients):
        values |= {f"meta loss of {key!r}": value for key, value in gradients.meta_loss.items()}
        meters = gradients.language_meter.items()
        values |= {
            f"meta-gradient of {key!r}": meter.direct_norm + meter.indirect_norm
            for key, meter in meters
        }
    if gradients.shared:
        values["gradient of the shared weights"] = whole(
            torch.nn.utils.get_total_norm(gradients.shared.values())
        )
    finite = torch.stack([value.float() for value in values.values()]).isfinite()
    if bool(finite.all()):
        return
    bad = [name for name, good in zip(values, finite.tolist(), strict=True) if not good]
    saved = sorted(Path(output_dir).glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
    kept = f"The last checkpoint is {saved[-1]}." if saved else "No checkpoint was saved yet."
    error = NonFiniteLossError(
        f"Losses and gradients must be finite. Found NaN or infinity in the {', the '.join(bad)}"
        f" after {step} steps; no weight was updated with it. {kept} Look for batches without"
        " labels, or lower `learning_rate`, `adapter_learning_rate` or `inner_learning_rate`;"
        " `skip_nonfinite_steps=3` lets a few such steps pass."
    )
    error.overflow = not any(name.startswith("training loss") for name in bad)
    raise error


def skip_step(model: LanguageAdapterModel, scaler: Any = None) -> None:
    """Leave `.grad` such that the optimizer does nothing.

    Args:
        model: The model.
        scaler: The loss scaler of fp16, which accepts no step without gradients, but leaves out one
            that is infinite.
    """
    for parameter in model.parameters():
        parameter.grad = None
    if scaler is not None:
        first = next(parameter for parameter in model.parameters() if parameter.requires_grad)
        first.grad = torch.full_like(first, float("inf"))


def _scaled(gradient: Tensor | None, scale: Tensor | None) -> Tensor | None:
    return gradient if gradient is None or scale is None else gradient * scale
