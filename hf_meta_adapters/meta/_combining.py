"""The choice of how the update of θ is put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hf_meta_adapters._typing import Language, Parameters
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta._combination import Combination, SurgeryStep
from hf_meta_adapters.meta._kept_gradients import KeptGradients
from hf_meta_adapters.meta._lagged_gradients import LaggedGradients
from hf_meta_adapters.meta._reduce import Reduce
from hf_meta_adapters.meta._sketched_gradients import SketchedGradients
from hf_meta_adapters.meta.surgery import Surgery

_WAYS: Mapping[str, type[Combination]] = {
    "keep": KeptGradients,
    "sketch": SketchedGradients,
    "lagged": LaggedGradients,
}


def combining(
    surgery: Surgery | None,
    shared: Parameters,
    languages: Sequence[Language],
    reduce: Reduce,
    *,
    of: int,
    summed: bool,
) -> Combination | None:
    """What puts Σ_l w_l g_l of a step together; `None` for the mean.

    Args:
        surgery: What the weights are computed by.
        shared: θ, by name.
        languages: The languages that have a training loss.
        reduce: Sums over processes.
        of: The number of languages in the step, with those that have none.
        summed: As for `SurgeryStep`.

    Returns:
        The combination.

    Raises:
        ConfigurationError: If there is no θ.
    """
    if surgery is None:
        return None

    if not shared:
        raise ConfigurationError(
            f"Gradient surgery combines gradients of the shared weights θ. Found {surgery!r} and no"
            " shared parameter. Leave it out, or make part of the model trainable"
            ' (`shared="all"`, or a PeftConfig such as LoraConfig()).'
        )
    if not languages:
        return None  # no language has a label

    # By all languages, so that a batch without labels does not change the way.
    way = surgery.way(of * sum(parameter.numel() for parameter in shared.values()))
    return _WAYS[way](SurgeryStep(surgery, shared, languages, reduce, summed))
