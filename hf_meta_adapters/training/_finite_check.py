"""The stop before an update with losses or gradients that are not finite."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hf_meta_adapters.errors import NonFiniteLossError
from hf_meta_adapters.meta import MetaGradients
from hf_meta_adapters.meta.vectors import whole
from hf_meta_adapters.training._apply_gradients import Gradients
from hf_meta_adapters.training._checkpoint_folders import last_checkpoint


def check_finite(gradients: Gradients, step: int, output_dir: str | Path) -> None:
    """Stop before an update if a loss or a gradient of the step is not finite.

    Args:
        gradients: The gradients and losses of the global batch: all processes stop together.
        step: The number of optimizer steps taken.
        output_dir: The folder of the run.

    Raises:
        NonFiniteLossError: Naming the languages, the step and the last checkpoint.
    """
    values = _values(gradients)

    if not values:
        return  # no language had a label

    # One transfer from the device in the good case.
    finite = torch.stack([value.float() for value in values.values()]).isfinite()
    if bool(finite.all()):
        return

    bad = [name for name, good in zip(values, finite.tolist(), strict=True) if not good]
    error = NonFiniteLossError(
        f"Losses and gradients must be finite. Found NaN or infinity in the {', the '.join(bad)}"
        f" after {step} steps; no weight was updated with it. {last_checkpoint(Path(output_dir))}"
        " Check the data, or lower `learning_rate`, `adapter_learning_rate` or"
        " `inner_learning_rate`; `skip_nonfinite_steps=3` lets a few such steps pass."
    )
    error.overflow = not any(name.startswith("training loss") for name in bad)
    raise error


def _values(gradients: Gradients) -> dict[str, Tensor]:
    """What is to be finite: name for the message → 0-d tensor."""
    values: dict[str, Tensor] = {}
    for language, loss in gradients.train_loss.items():
        values[f"training loss of {language!r}"] = loss

    if isinstance(gradients, MetaGradients):
        for language, loss in gradients.meta_loss.items():
            values[f"meta loss of {language!r}"] = loss
        for language, meter in gradients.language_meter.items():
            # Without a label in both roles, it has neither part.
            if not gradients.direct[language] and not gradients.indirect[language]:
                continue

            # Finite if and only if both parts of the meta-gradient are.
            norms = meter.direct_norm + meter.indirect_norm
            values[f"meta-gradient of {language!r}"] = norms

    if gradients.shared:
        norm = torch.nn.utils.get_total_norm(gradients.shared.values())
        values["gradient of the shared weights"] = whole(norm)

    return values
