"""The states of parameters that an optimizer has not updated yet."""

from __future__ import annotations

import warnings

import torch

from hf_meta_adapters.meta.adam import is_adam
from hf_meta_adapters.training._optimizer_groups import unwrapped


def add_first_states(optimizer: torch.optim.Optimizer) -> None:
    """Give each parameter without a state the one with which its first step would begin.

    A φ has none as long as its language was in no step. PyTorch saves the states of sharded
    parameters as they are, but does not load them unless every parameter has one. Adam begins with
    moments of zero and no step, whenever these are made, so that nothing else changes.

    Args:
        optimizer: The optimizer. Others than Adam and AdamW are left as they are, with a warning.
    """
    optimizer = unwrapped(optimizer)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    lacking = [parameter for parameter in held if not optimizer.state.get(parameter)]
    if not lacking or not optimizer.state:
        return

    if not is_adam(optimizer):
        warnings.warn(
            "A run with sharded parameters resumes only where the optimizer has a state of each."
            f" `{type(optimizer).__name__}` has none yet of {len(lacking)} of {len(held)}: with"
            " `languages_per_step`, that of a language begins with its first step. Save later, or"
            ' use `optim="adamw_torch"`.',
            stacklevel=4,
        )
        return

    known = next(parameter for parameter in held if optimizer.state.get(parameter))
    for parameter in lacking:
        for name, entry in optimizer.state[known].items():
            like = entry if name == "step" else parameter
            zeros = torch.zeros_like(like, dtype=entry.dtype, requires_grad=False)
            optimizer.state[parameter][name] = zeros
