"""By how much a sample is smaller than all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hf_meta_adapters._typing import Language, Loss
from hf_meta_adapters.meta.sampled_losses import divided


def sample_scales(losses: Mapping[Language, Sequence[Loss]]) -> list[float]:
    """All labels by those of the sample, of each language that has a label."""
    return [divided(own).scale for own in losses.values() if own]
