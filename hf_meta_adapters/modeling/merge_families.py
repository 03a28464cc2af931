"""`merge_families`: experts of single languages, trained from one base, as one model."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import transformers
from torch import nn

from hf_meta_adapters.backends.abilities import ChecksMeans
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.hub.client import Access
from hf_meta_adapters.hub.experts import Expert, check_experts, fetch_expert
from hf_meta_adapters.hub.loading import load_base
from hf_meta_adapters.modeling._merged_folder import Merging, write_merged
from hf_meta_adapters.modeling.model import LanguageAdapterModel

_DENSITY = 0.2
"""What the paper of TIES keeps where nothing was tuned."""

_TOLERANCE = 1e-6


def merge_families(
    families: Sequence[str | Path | LanguageAdapterModel],
    *,
    weights: Sequence[float] | None = None,
    method: Literal["linear", "ties"] = "linear",
    density: float | None = None,
    base_model: str | Path | nn.Module | None = None,
    token: str | bool | None = None,
) -> LanguageAdapterModel:
    """Compute θ = θ_0 + Σ_i w_i (θ_i − θ_0): one model from several that have one base, θ_0.

    The model has the languages of all families. A language that is in one of them keeps its φ_l; of
    one that is in several, the φ_l are merged as θ is, with their weights divided by their sum.

    `"linear"` is the weighted mean. `"ties"` trims each task vector τ_i = θ_i − θ_0, elects a sign
    for each entry, and takes the mean of those that have it (Yadav et al. 2023). LoRA is merged by
    what it adds to the weights, s B A, through `add_weighted_adapter` of PEFT: a θ that is LoRA
    gets the sum of the ranks, at which the weighted mean is exact; a φ_l keeps the rank of its
    family, and is the nearest LoRA of that rank. Adapters of other methods have no known start, so
    they are averaged parameter by parameter, under `"linear"` only.

    Families are read tensor by tensor, so that beside the result no other family is ever in memory
    as a whole. Those that are given as models are first written to a temporary folder.

    Args:
        families: Two or more: folders that `save_pretrained` wrote, repositories on the Hub, or
            models in memory.
        weights: w_i, positive, with the sum 1 within 1e-6; default the same for each. Under
            `"ties"`, the mean is that of n w_i τ_i, as PEFT has it.
        method: `"linear"` or `"ties"`.
        density: The share of the entries of each task vector that `"ties"` keeps, tensor by
            tensor, above 0 and at most 1; default 0.2.
        base_model: θ_0, which `"ties"` needs where θ is not an adapter: a folder, a repository, or
            a transformers model of the class of the families, with the head that they started from.
        token: The token for private repositories; default that of `hf auth login`.

    Returns:
        The model, in evaluation mode. What it was merged from is in `merged_from`, and in the
        manifest and on the card of whatever it is saved as.

    Raises:
        ConfigurationError: If the families are not of one base, backend, configuration, tokenizer
            and head, or the options contradict one another.
        HubError: If a family cannot be read.
        LanguageError: If two languages differ by letter case alone.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertModel
        >>> from hf_meta_adapters import get_language_model, merge_families
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        ...              intermediate_size=16, vocab_size=9)
        >>> experts = [
        ...     get_language_model(BertModel(BertConfig(**sizes)), None, [language])
        ...     for language in ("en", "sw")
        ... ]
        >>> merged = merge_families(experts, weights=[0.25, 0.75])
        >>> merged.languages
        ('en', 'sw')
        >>> en, sw, both = (model.pooler.dense.weight for model in (*experts, merged))
        >>> torch.allclose(both, 0.25 * en + 0.75 * sw)
        True
    """
    weights = _checked_weights(families, weights)
    density = _checked_density(method, density)
    access = Access(token=token)

    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        experts = [
            _expert(source, index, weight, access, place)
            for index, (source, weight) in enumerate(zip(families, weights, strict=True))
        ]
        check_experts(experts, access)

        base = _saved_base(experts[0], base_model, density, access, place)
        means = write_merged(place / "merged", Merging(experts, density, base))
        model = LanguageAdapterModel.from_pretrained(place / "merged", token=token)

    if means and isinstance(model.backend, ChecksMeans):
        model.backend.check_mean()

    # not the folder, which is gone
    if not experts[0].family.base_model:
        merged: Any = model.base_model
        merged.config.name_or_path = ""
    return model


def _checked_weights(families: object, weights: Sequence[float] | None) -> list[float]:
    is_list = isinstance(families, Sequence) and not isinstance(families, str)
    if not is_list or len(families) < 2:  # type: ignore[arg-type]
        raise ConfigurationError(
            "`families` must be a list of two families or more. Found"
            f' {str(families)[:200]!r}. Use for example ["me/en", "me/sw"].'
        )

    count = len(families)  # type: ignore[arg-type]
    if weights is None:
        return [1 / count] * count

    found = list(weights)
    are_positive = all(_is_positive(weight) for weight in found)
    if len(found) != count or not are_positive or abs(sum(found) - 1) > _TOLERANCE:
        raise ConfigurationError(
            f"`weights` must be a positive number for each of the {count} families, with the sum 1"
            f" within {_TOLERANCE}. Found {found}. Leave it out for equal weights."
        )
    return found


def _is_positive(weight: object) -> bool:
    # to Python, `True` is the integer 1
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        return False
    return weight > 0 and math.isfinite(weight)


def _checked_density(method: str, density: float | None) -> float | None:
    if method not in ("linear", "ties"):
        raise ConfigurationError(
            f'`method` must be "linear" or "ties". Found {method!r}. Use "linear", the weighted'
            " mean, if in doubt."
        )

    if method == "linear" and density is not None:
        raise ConfigurationError(
            f'`density` is an option of `method="ties"`. Found `density={density!r}` with'
            ' `method="linear"`. Leave it out, or use "ties".'
        )
    if method == "linear":
        return None

    density = _DENSITY if density is None else density
    if not _is_positive(density) or density > 1:
        raise ConfigurationError(
            f"`density` must be above 0 and at most 1. Found {density!r}. Use for example"
            f" {_DENSITY}."
        )
    return density


def _expert(
    source: str | Path | LanguageAdapterModel,
    index: int,
    weight: float,
    access: Access,
    place: Path,
) -> Expert:
    if isinstance(source, (str, Path)):
        return fetch_expert(source, weight, access)

    if not isinstance(source, LanguageAdapterModel):
        raise ConfigurationError(
            "A family must be a folder, a repository on the Hub or a `LanguageAdapterModel`. Found"
            f" `families[{index}]` of type `{type(source).__name__}`. Make it one:"
            " `get_language_model(model, None, [language])`."
        )

    source.save_pretrained(place / str(index))
    found = fetch_expert(place / str(index), weight, access)
    return replace(found, label=f"families[{index}]", name="", tokenizer=None)


def _saved_base(
    first: Expert,
    base: str | Path | nn.Module | None,
    density: float | None,
    access: Access,
    place: Path,
) -> Path | None:
    """The folder of a checkpoint of the base, as that of a family is written."""
    family = first.family
    is_needed = density is not None and not family.theta_is_adapter and family.shared != "none"
    if is_needed and base is None:
        raise ConfigurationError(
            "TIES needs the weights that all families were trained from. Found no `base_model`."
            " Pass the folder, the repository or the model that you gave to `get_language_model`."
        )
    if base is None:
        return None

    if not is_needed:
        raise ConfigurationError(
            '`base_model` is read by `method="ties"` where θ is a part of the model. Found it with'
            f" `method={'linear' if density is None else 'ties'!r}` and"
            f" {'θ that is an adapter' if family.theta_is_adapter else f'{family.shared=}'}. Leave"
            " it out."
        )

    model: Any = base
    if not isinstance(base, nn.Module):
        named = replace(family, base_model=str(base), base_revision="")
        model = load_base(first.folder, named, None, {}, access)

    if type(model).__name__ != family.base_class:
        raise ConfigurationError(
            f"`base_model` must be a `{family.base_class}`, as the families are. Found a"
            f" `{type(model).__name__}`. Load it by that class."
        )

    folder = place / "base"
    transformers.PreTrainedModel.save_pretrained(model, str(folder))
    return folder
