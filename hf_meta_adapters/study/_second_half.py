"""What follows a first half of joint training: experts that are merged, or copies by a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hf_meta_adapters._typing import Language
from hf_meta_adapters.anatomy.layers import layer_index, layer_of
from hf_meta_adapters.anatomy.modules import find_modules
from hf_meta_adapters.backends.module_copy import ModuleCopyConfig
from hf_meta_adapters.diagnostics import gradient_conflict, plan_language_capacity
from hf_meta_adapters.modeling.factory import get_language_model
from hf_meta_adapters.modeling.merge_families import merge_families
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.study._masked_training import MakeArguments, MaskedTraining

_BATCHES = 8
"""Of each language, from which the conflict is measured."""


def merged_experts(
    joint: LanguageAdapterModel,
    training: MaskedTraining,
    steps: Mapping[Language, int],
    arguments: Callable[[int], MakeArguments],
    method: Any,
) -> LanguageAdapterModel:
    """Train the joint model further on each language alone, and merge what comes out.

    Args:
        joint: The model that all experts start from, without parameters of a language.
        training: The text.
        steps: Language → steps of its expert.
        arguments: Makes the arguments of a run of so many steps in one language.
        method: `"linear"` or `"ties"`.

    Returns:
        The merged model.
    """
    model_class: Any = type(joint.base_model)

    with TemporaryDirectory() as place:
        folder = Path(place)
        base: Any = joint.base_model
        base.save_pretrained(folder / "base")

        for language, count in steps.items():
            copy = model_class.from_pretrained(folder / "base")
            expert = get_language_model(copy, None, [language])
            training.run(expert.train(), arguments(count))
            expert.save_pretrained(folder / language)

        start = folder / "base" if method == "ties" else None
        return merge_families([folder / key for key in steps], method=method, base_model=start)


def with_planned_copies(
    joint: LanguageAdapterModel, training: MaskedTraining, modules: str, rows_per_batch: int
) -> LanguageAdapterModel:
    """Give each language copies of modules in the half of the layers that conflicts most.

    Args:
        joint: The model, without parameters of a language; it is changed in place.
        training: The text, on which the conflict is measured.
        modules: The kind of the modules.
        rows_per_batch: Rows of a batch.

    Returns:
        The model with the copies.
    """
    base = joint.base_model
    batches = training.batches(rows_per_batch, _BATCHES)
    conflict = gradient_conflict(base, batches, per_layer=True, resamples=0)

    layers = [layer for layer in conflict.per_layer if layer_index(layer) is not None]
    plan = plan_language_capacity(conflict, None, budget=(len(layers) + 1) // 2)

    # not by `plan.configure`, for which a name of another layer is one that finds nothing
    names = [name for name in find_modules(base, modules) if layer_of(name) in plan.target_layers]
    return get_language_model(base, ModuleCopyConfig(names), list(training.rows))
