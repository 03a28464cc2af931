"""A hint where the parameters of a language are many beside those of the model."""

from __future__ import annotations

import logging

from hf_meta_adapters.modeling.model import LanguageAdapterModel

_LARGE = 0.2
"""The default bottleneck has 0.06 of the parameters of XLM-R's body."""

_LOGGER = logging.getLogger(__name__)


def hint_at_size(model: LanguageAdapterModel) -> None:
    """Log how large a φ_l is if it has a fifth as many parameters as the model without languages.

    Args:
        model: The model, with its languages.
    """
    own: dict[int, int] = {}
    most = 0
    for language in model.languages:
        parameters = model.language_parameters(language).values()
        own.update({id(parameter): parameter.numel() for parameter in parameters})
        most = max(most, sum(parameter.numel() for parameter in parameters))

    rest = sum(each.numel() for each in model.parameters() if id(each) not in own)
    if most < _LARGE * rest:
        return

    _LOGGER.warning(
        "Each language has %s parameters of its own, %.0f %% of the %s that the model has without"
        " languages. If that is more than you want, choose a narrower adapter, for example"
        " `BottleneckConfig(reduction_factor=16)` or a lower rank of LoRA.",
        f"{most:,}",
        100 * most / rest,
        f"{rest:,}",
    )
