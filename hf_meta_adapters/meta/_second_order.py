"""The context in which a model can be differentiated twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_meta_adapters.errors import ConfigurationError


@contextmanager
def second_order() -> Iterator[None]:
    """Attention that can be differentiated twice, and an error that says what to do where it cannot.

    The fused kernels of scaled dot-product attention have neither a second derivative nor a forward one; PyTorch's
    plain kernel for the same function has both.
    """
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):  # compiled code has none either
            yield
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        known = ("derivative for", "double backward", "forward AD", "forward-mode", "not differentiable twice")
        if not any(part in text for part in known):
            raise
        raise ConfigurationError(
            'The estimators "exact" and "forward_mode" need operations with a second derivative. Found one without: '
            f'{text.splitlines()[0]} Write `meta_gradient="finite_difference"`, which takes ordinary passes only; or '
            'load the model with `attn_implementation="sdpa"` or `"eager"` and without torch.compile (some operations, '
            'the SiLU of Llama among them, have one for "exact" but none for "forward_mode").'
        ) from error
