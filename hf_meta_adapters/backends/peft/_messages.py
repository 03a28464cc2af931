"""The words by which errors and warnings of PEFT are recognised where it has no class for them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from peft import NoMatchingPeftModuleError

# "Target module Embedding(…) is not supported."
_UNFIT_TARGET = "target module"

# "AdaLoraModel supports only 1 trainable adapter.", "LoraModel supports only 1 adapter with bias."
_ONE_ADAPTER = "only 1"

# message and category of each warning
_NOISE: tuple[tuple[str, type[Warning]], ...] = (
    ("`is_gradient_checkpointing` is deprecated", FutureWarning),
    ("Unsupported layer type", UserWarning),
    ("You are trying to modify a model with PEFT for a second time", Warning),
    ("Already following adapters were merged", Warning),
    ("All adapters are already merged", Warning),
    # of merging, which unties what it changes
    ("Model with `tie_word_embeddings=True` and the", UserWarning),
    ("Input and output embeddings are no longer tied after merging", UserWarning),
)


def lacks_target(error: ValueError) -> bool:
    """Whether PEFT found no module to attach an adapter to, or one that the method cannot adapt."""
    if isinstance(error, NoMatchingPeftModuleError):
        return True

    return _UNFIT_TARGET in str(error).lower()


def allows_one_adapter(error: ValueError) -> bool:
    """Whether a method of PEFT refuses a second trained adapter in a model."""
    return _ONE_ADAPTER in str(error)


@contextmanager
def without_noise() -> Iterator[None]:
    """Silence warnings that PEFT causes by itself, about which a user can do nothing."""
    with warnings.catch_warnings():
        for message, category in _NOISE:
            warnings.filterwarnings("ignore", message=message, category=category)
        yield
