"""BibTeX of the package and of the methods that are in use."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

from hf_meta_adapters.diagnostics.language_masks import LanguageMasks
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.hub._bibliography import PACKAGE, PAPER, bibtex

_HOULSBY = "houlsby-etal-2019-parameter"
_PFEIFFER = "pfeiffer-etal-2021-adapterfusion"
_LORA = "hu-etal-2022-lora"
_IA3 = "liu-etal-2022-few-shot"
_PREFIX_TUNING = "li-liang-2021-prefix"

_PEFT_TYPES = {
    "BOTTLENECK": _HOULSBY,
    "LORA": _LORA,
    "IA3": _IA3,
    "LN_TUNING": "zhao-etal-2024-tuning",
    "PREFIX_TUNING": _PREFIX_TUNING,
}
_ADAPTER_HUB = "poth-etal-2023-adapters"
_ADAPTER_HUB_CLASSES: dict[str, tuple[str, ...]] = {
    "DoubleSeqBnConfig": (_HOULSBY,),
    "SeqBnConfig": (_PFEIFFER,),
    "SeqBnInvConfig": (_PFEIFFER, "pfeiffer-etal-2020-mad"),
    "LoRAConfig": (_LORA,),
    "IA3Config": (_IA3,),
    "PrefixTuningConfig": (_PREFIX_TUNING,),
}
_SAMPLING = {
    "temperature": "conneau-lample-2019-cross",
    "unimax": "chung-etal-2023-unimax",
    "cooldown": "li-etal-2025-upsample",
}
_SURGERY = {
    "pcgrad": "yu-etal-2020-gradient",
    "gradvac": "wang-etal-2021-gradient",
    "upgrad": "quinton-rey-2024-jacobian",
    "dualproj": "lopez-paz-ranzato-2017-gradient",
    "cagrad": "liu-etal-2021-conflict",
    "aligned_mtl": "senushkin-etal-2023-independent",
    "mgda": "desideri-2012-multiple",
    "imtl_g": "liu-etal-2021-impartial",
    "fairgrad": "ban-ji-2024-fair",
    "nash_mtl": "navon-etal-2022-multi",
}
_WEIGHTS = {"alignment": "fan-etal-2024-doge", "famo": "liu-etal-2023-famo"}


# The objects that `citation` takes belong to layers above this one, and to libraries that only
# their own backends name. So they are recognized by what they hold.


@runtime_checkable
class _PeftConfig(Protocol):
    peft_type: str


@runtime_checkable
class _PeftModel(Protocol):
    peft_config: Mapping[str, _PeftConfig]


@runtime_checkable
class _Theta(Protocol):
    model: _PeftModel


class _Backend(Protocol):
    config: object


@runtime_checkable
class _LanguageModel(Protocol):
    backend: _Backend
    shared_part: object
    merged_from: dict[str, object]


@runtime_checkable
class _MetaGradientSettings(Protocol):
    meta_gradient: str


@runtime_checkable
class _TrainingSettings(Protocol):
    adapter_update: str
    languages_per_step: int | None
    sampling: str
    shared_update: str
    language_weights: str
    reptile_steps: int | None


def citation(*used: object) -> str:
    r"""Collect the BibTeX entries of the paper, of this package, and of the methods in use.

    Args:
        *used: What you have used: a `LanguageAdapterModel`, the configuration of an adapter (such
            as `BottleneckConfig` or a `peft.LoraConfig`), `MetaAdapterTrainingArguments` or
            `MetaOptions`, `LanguageMasks`. A method whose paper is not on record adds nothing.

    Returns:
        The entries, separated by blank lines, each once: first Wang, Lipton and Tsvetkov (2020),
        then this package, then the methods in the order of `used`.

    Raises:
        ConfigurationError: If an object is none of these.

    Example:
        >>> from hf_meta_adapters import BottleneckConfig, citation
        >>> entries = citation(BottleneckConfig()).split("\n\n")
        >>> for entry in entries:
        ...     print(entry.splitlines()[0])
        @inproceedings{wang-etal-2020-negative,
        @misc{hf-meta-adapters,
        @inproceedings{houlsby-etal-2019-parameter,
    """
    keys = [PAPER, PACKAGE]
    for thing in used:
        keys += _keys(thing)

    # A dictionary keeps the order and drops duplicates; a set would do the second alone.
    return "\n\n".join(bibtex(key) for key in dict.fromkeys(keys))


def _keys(used: object) -> Iterator[str]:
    # A model of PEFT has a `peft_type` as well, so models come before configurations.
    if isinstance(used, LanguageMasks):
        yield "louizos-etal-2018-learning"
    elif isinstance(used, _LanguageModel):
        yield from _keys_of_model(used)
    elif isinstance(used, _PeftModel):
        for config in used.peft_config.values():
            yield from _keys_of_peft(config)
    elif isinstance(used, _PeftConfig):
        yield from _keys_of_peft(used)
    elif isinstance(used, _MetaGradientSettings):
        yield from _keys_of_settings(used)
    elif _is_of_adapter_hub(used):
        yield from _keys_of_adapter_hub(used)
    else:
        raise ConfigurationError(
            "`citation` takes models, configurations of adapters, training arguments and masks."
            f" Found {reprlib.repr(used)} of type `{type(used).__name__}`. Pass for example the"
            " model that `get_language_model` returned."
        )


def _keys_of_model(model: _LanguageModel) -> Iterator[str]:
    if model.backend.config is not None:
        yield from _keys(model.backend.config)

    # θ may be an adapter of another method than the languages have.
    if isinstance(model.shared_part, _Theta):
        yield from _keys(model.shared_part.model)

    if model.merged_from.get("method") == "ties":
        yield "yadav-etal-2023-ties"


def _keys_of_peft(config: _PeftConfig) -> Iterator[str]:
    # A member of PEFT's enumeration equals its name as a string.
    if config.peft_type in _PEFT_TYPES:
        yield _PEFT_TYPES[config.peft_type]


def _keys_of_settings(settings: _MetaGradientSettings) -> Iterator[str]:
    if isinstance(settings, _TrainingSettings):
        if settings.languages_per_step is not None:
            yield _SAMPLING[settings.sampling]
        if settings.shared_update in _SURGERY:
            yield _SURGERY[settings.shared_update]
        if settings.language_weights in _WEIGHTS:
            yield _WEIGHTS[settings.language_weights]
        if settings.reptile_steps is not None:
            yield "lee-etal-2022-sequential"

        # Joint training of adapters takes no meta-gradient, whatever the estimator is set to.
        if settings.adapter_update == "train":
            return

    if settings.meta_gradient == "finite_difference":
        yield "liu-etal-2019-darts"


def _is_of_adapter_hub(config: object) -> bool:
    return type(config).__module__.partition(".")[0] == "adapters"


def _keys_of_adapter_hub(config: object) -> Iterator[str]:
    yield _ADAPTER_HUB

    # Only the nearest class counts: `IA3Config` derives from `LoRAConfig`.
    for base in type(config).__mro__:
        if base.__name__ in _ADAPTER_HUB_CLASSES:
            yield from _ADAPTER_HUB_CLASSES[base.__name__]
            return
