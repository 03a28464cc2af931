"""The rows of a sample and all others in one pass, in which the sample has a φ of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from weakref import WeakSet

from torch import Tensor, nn

from hf_meta_adapters._typing import Batch, Language, Loss
from hf_meta_adapters.backends.abilities import DividesRows, Division
from hf_meta_adapters.backends.recomputation import is_checkpointed
from hf_meta_adapters.backends.rows import count_rows
from hf_meta_adapters.meta.sampled_losses import CommonLoss, IndivisiblePassError
from hf_meta_adapters.meta.vectors import is_sharded
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps._divided_noise import DividedNoise

_REFUSED: WeakSet[nn.Module] = WeakSet()
"""Models of which a pass could not be divided, as the first one showed."""


def common_losses(
    model: LanguageAdapterModel,
    language: Language,
    batches: Sequence[Batch],
    samples: Sequence[Batch],
    losses: Sequence[Loss],
) -> list[CommonLoss]:
    """The losses of whole micro-batches, whose first rows depend on a twin of φ.

    Args:
        model: The model.
        language: The language.
        batches: Its micro-batches.
        samples: The first rows of each.
        losses: The loss of each whole micro-batch.

    Returns:
        The losses in a form in which the sample can be told from the rest; none if the model cannot
        have passes of that kind.
    """
    if not _is_divisible(model):
        return []

    common: list[CommonLoss] = []
    for batch, sample, loss in zip(batches, samples, losses, strict=True):
        sizes = count_rows(sample), count_rows(batch)
        common.append(partial(_evaluate, model, language, sizes, loss))
    return common


def _is_divisible(model: LanguageAdapterModel) -> bool:
    """Whether a pass of the model may be divided, as far as that is known before."""
    if model in _REFUSED or not isinstance(model.backend, DividesRows):
        return False

    # A recomputation would not know of the twin, and a compiled layer has drawn its masks already.
    if is_checkpointed(model.backend.base) or any(map(_is_compiled, model.modules())):
        return False
    return not any(map(is_sharded, model.parameters()))


def _evaluate(
    model: LanguageAdapterModel,
    language: Language,
    sizes: tuple[int, int],
    loss: Loss,
    parameters: Sequence[Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """The loss, and the leaves on which the first rows depend in the place of φ."""
    try:
        with _dividing(model, language, sizes) as leaves:
            with DividedNoise(*sizes, model.device) as noise:
                value = loss()
            noise.check()

        if any(id(parameter) not in leaves for parameter in parameters):
            raise IndivisiblePassError

    except (ValueError, IndivisiblePassError) as error:
        # A layer of PEFT refuses an input without an entry for each row by a `ValueError`. If it is
        # about something else, the passes without division raise it again.
        _REFUSED.add(model)
        raise IndivisiblePassError from error

    return value, [leaves[id(parameter)] for parameter in parameters]


def _dividing(model: LanguageAdapterModel, language: Language, sizes: tuple[int, int]) -> Division:
    """The context in which the first rows have a twin of φ."""
    context = None
    if isinstance(model.backend, DividesRows) and not model.share_adapter:
        context = model.backend.dividing(language, *sizes)

    if context is None:
        raise IndivisiblePassError
    return context


def _is_compiled(module: nn.Module) -> bool:
    return getattr(module, "_compiled_call_impl", None) is not None
