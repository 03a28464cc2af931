"""What a decoder sees where a batch has labels and no decoder inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_meta_adapters._typing import IGNORED_LABEL


def decoder_inputs(base: Any, labels: Tensor) -> Tensor:
    """The labels, shifted to the right as the model itself would shift them.

    Args:
        base: The transformers model, an encoder-decoder.
        labels: The labels, of shape (rows, positions).

    Returns:
        The tokens, of the same shape.
    """
    if hasattr(base, "prepare_decoder_input_ids_from_labels"):
        return base.prepare_decoder_input_ids_from_labels(labels)

    # speech models have no such method, and shift in this way in their forward pass
    start = labels.new_full((len(labels), 1), base.config.decoder_start_token_id)
    shifted = torch.cat([start, labels[:, :-1]], 1)
    return shifted.masked_fill(shifted == IGNORED_LABEL, base.config.pad_token_id)
