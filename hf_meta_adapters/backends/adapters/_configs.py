"""Which configurations of the library `adapters` suit languages, and what they allow."""

from __future__ import annotations

from collections.abc import Iterator

from adapters import (
    AdapterConfig,
    BnConfig,
    ConfigUnion,
    DiReftConfig,
    LoRAConfig,
    MTLLoRAConfig,
    PromptTuningConfig,
    ReftConfig,
)

from hf_meta_adapters.errors import ConfigurationError


def configs_in(config: AdapterConfig) -> Iterator[AdapterConfig]:
    """The configurations in a union, or the configuration itself."""
    if isinstance(config, ConfigUnion):
        yield from config.configs
    else:
        yield config


def check_config(config: AdapterConfig) -> None:
    """Refuse a configuration that no model can have once for each language.

    Args:
        config: The configuration.

    Raises:
        ConfigurationError: If it is, or contains, a prompt or DiReFT.
    """
    configs = list(configs_in(config))
    if any(isinstance(each, PromptTuningConfig) for each in configs):
        raise ConfigurationError(
            "The adapter of a language must not change the length of the text, which the labels"
            " share. Found a `PromptTuningConfig`. Use for example `PrefixTuningConfig()`."
        )

    if any(isinstance(each, DiReftConfig) for each in configs):
        raise ConfigurationError(
            "The adapter of a language must be one that can be saved. Found a `DiReftConfig`, which"
            " the library `adapters` reads back as another method. Use for example"
            " `NoReftConfig()`."
        )


def check_mean(config: AdapterConfig) -> None:
    """Refuse the mean of several adapters where it breaks a constraint: orthogonality.

    Raises:
        ConfigurationError: If the configuration has orthogonal matrices.
    """
    if any(is_orthogonal(each) for each in configs_in(config)):
        raise ConfigurationError(
            "A language can start from the mean of several, or be merged from several families,"
            " only if a mean of their adapters is such an adapter. Found orthogonal ReFT, whose"
            ' mean is not orthogonal. Use `copy_from="sw"` with one language, merge families of'
            " which one has the language, or use `NoReftConfig()`."
        )


def splits_batches(config: AdapterConfig) -> bool:
    """Whether `BatchSplit` runs each row through an adapter of its own.

    It does so for bottleneck adapters, but not for invertible ones.
    """
    return all(isinstance(each, BnConfig) and not each.inv_adapter for each in configs_in(config))


def is_orthogonal(config: AdapterConfig) -> bool:
    """Whether a method constrains its matrices to be orthogonal."""
    return isinstance(config, ReftConfig) and config.orthogonality


def is_vera(config: AdapterConfig) -> bool:
    """Whether a method shares random matrices between layers."""
    if not isinstance(config, LoRAConfig):
        return False

    # the library has no class for it: a plain `LoRAConfig` with these settings is VeRA as well
    return isinstance(config.vera_d, float) or isinstance(config.vera_b, float)


def is_extended_lora(config: AdapterConfig) -> bool:
    """Whether a method is more than LoRA: DoRA, VeRA or multi-task LoRA."""
    if not isinstance(config, LoRAConfig):
        return False

    return isinstance(config, MTLLoRAConfig) or config.use_dora or is_vera(config)
