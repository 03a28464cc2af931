"""Weights that are not finite are refused before training."""

from __future__ import annotations

from pathlib import Path

import torch

from hf_meta_adapters.errors import HubError
from hf_meta_adapters.modeling.model import LanguageAdapterModel

_NAMED = 3


def check_weights(model: LanguageAdapterModel, source: str | Path | None = None) -> None:
    """Check that θ and every φ_l are finite.

    Args:
        model: The model.
        source: Where they were read from, for the message.

    Raises:
        HubError: Naming the first ones that are not.
    """
    parameters = {**model.shared_parameters()}
    for language in model.languages:
        parameters.update(model.language_parameters(language))

    # The first loss would be NaN as well, but nothing would then point to the weights.
    bad = []
    for name, parameter in parameters.items():
        if not bool(torch.isfinite(parameter.detach()).all()):
            bad.append(name)
    if not bad:
        return

    where = "in the model"
    if source is not None:
        where = f"in {source}"

    names = ", ".join(bad[:_NAMED])
    if len(bad) > _NAMED:
        names += f" and {len(bad) - _NAMED} more"

    raise HubError(
        f"Weights must be finite before training. Found NaN or infinity {where} in {names}. Load"
        " an earlier checkpoint, or create the adapter anew."
    )
