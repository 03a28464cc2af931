"""Methods and settings of PEFT that cannot keep their promise in a model with languages."""

from __future__ import annotations

from collections.abc import Mapping

from peft import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

from hf_meta_adapters.backends.peft._files import shown
from hf_meta_adapters.errors import ConfigurationError

# each: the reason, and what to write instead
_Reason = tuple[str, str]
_LORA = 'Use for example `LoraConfig(target_modules="all-linear")`.'

_METHODS: Mapping[str, _Reason] = {
    "ADAPTION_PROMPT": ("it changes the code of the attention modules", _LORA),
    "CPT": ("PEFT finds its prompt under one name only", _LORA),
    "MULTITASK_PROMPT_TUNING": ("its forward pass needs `task_ids`", _LORA),
    "P_TUNING": ("PEFT saves what its encoder computes, and not the encoder", _LORA),
    "POLY": ("its forward pass needs `task_ids`", _LORA),
    "SHADOW": ("its layers return something else than the modules they stand for", _LORA),
    "XLORA": ("it combines adapters that are trained already", _LORA),
}
_FROM_BASE = ("it derives fixed parts from the weights of the base, which θ changes", _LORA)
_METHODS_OF_LANGUAGES: Mapping[str, _Reason] = {
    "ADAMSS": _FROM_BASE,
    "FROD": _FROM_BASE,
    "LILY": ("its layers share parts, which PEFT does not find again in one adapter", _LORA),
    "OSF": _FROM_BASE,
    "PSOFT": _FROM_BASE,
}
_METHODS_OF_THETA: Mapping[str, _Reason] = {
    "ADALORA": ("its ranks are reduced by PEFT's own wrapper, which languages bypass", _LORA)
}

_SETTINGS: Mapping[str, _Reason] = {
    "arrow_config": ("it combines adapters that are trained already", "Leave it out."),
    "kasa_config": ("it truncates the weights of the base, which languages share", "Leave it out."),
    "layer_replication": (
        "the layers that it adds to the base are not part of a saved base",
        "Leave it out, or save a base that has these layers, and load that.",
    ),
    "megatron_config": ("it is for layers of Megatron-LM", "Leave it out."),
    "monteclora_config": (
        "it carries random samples from one pass to the next, and has a loss of its own",
        "Leave it out.",
    ),
    "prefix_projection": (
        "PEFT saves what the projection computes, and not the projection",
        "Set `prefix_projection=False`.",
    ),
    "use_qalora": (
        "PEFT ignores it, except on bases quantized by GPTQ, which are not tested",
        "Leave it out.",
    ),
}
_SETTINGS_OF_THETA: Mapping[str, _Reason] = {
    "alora_invocation_tokens": (
        "PEFT looks for these tokens in its own wrapper, which languages bypass",
        "Leave it out, or set it for the languages.",
    ),
}


def check_supported(config: PeftConfig, model: nn.Module, *, is_theta: bool) -> None:
    """Refuse a configuration that would not work, or do something else than it says.

    Args:
        config: The configuration.
        model: The base, without adapters.
        is_theta: Whether the adapter is θ, rather than that of a language.

    Raises:
        ConfigurationError: If there is a reason against its method or one of its settings.
    """
    method, settings = str(getattr(config.peft_type, "value", config.peft_type)), vars(config)

    of_role = _METHODS_OF_THETA if is_theta else _METHODS_OF_LANGUAGES
    for reasons in (_METHODS, of_role):
        if method in reasons:
            raise _refusal(f"{type(config).__name__}(...)", reasons[method])

    of_settings = {**_SETTINGS, **_SETTINGS_OF_THETA} if is_theta else _SETTINGS
    for name, reason in of_settings.items():
        if settings.get(name):
            raise _refusal(f"{name}={shown(settings[name])}", reason)

    if settings.get("init_lora_weights") == "eva":
        why = "PEFT computes this initialisation from data, in a call of its own"
        raise _refusal("init_lora_weights='eva'", (why, "Set `init_lora_weights=True`."))

    _check_embeddings(config, model, is_theta=is_theta)


def check_bias(config: PeftConfig) -> None:
    """Refuse languages that train biases of the base.

    Raises:
        ConfigurationError: If `bias` is not "none".
    """
    bias = vars(config).get("bias", "none")  # not every method has the setting
    if bias != "none":
        why = "the biases belong to the base, which languages share"
        raise _refusal(f"bias={shown(bias)}", (why, 'Set `bias="none"`; biases can be part of θ.'))


def _check_embeddings(config: PeftConfig, model: nn.Module, *, is_theta: bool) -> None:
    """Refuse what PEFT does to tied embeddings that is not what it says."""
    settings = vars(config)
    modules = dict(model.named_modules())
    tied = {name: part for name, part in modules.items() if _is_embedding(part, model)}

    # of `target_modules`, two parameters over one memory would each be updated; the second language
    # finds the copies that the first has of `modules_to_save`
    ties = len(tied) > 1 and bool(settings.get("ensure_weight_tying"))
    if ties and (not is_theta or any(check_target_module_exists(config, name) for name in tied)):
        why = f"the adapters of {sorted(tied)} would not be one, or would be updated twice"
        raise _refusal("ensure_weight_tying=True", (why, "Leave it out."))

    chosen = settings.get("trainable_token_indices") or settings.get("token_indices")
    heads = [name for name, part in tied.items() if getattr(part, "bias", None) is not None]
    if chosen and heads and len(tied) > 1:
        why = f"PEFT leaves out the bias of {heads[0]!r}, which is tied to the tokens"
        instead = 'Use whole embeddings: `modules_to_save=["..."]`.'
        raise _refusal("trainable tokens", (why, instead))

    if chosen:
        _check_tokens(chosen, model)

    if settings.get("token_indices") and not is_theta and len(tied) > 1:
        why = f"PEFT puts the second language into the first in {sorted(tied)}, which are tied"
        instead = "Use `LoraConfig(..., trainable_token_indices=[...])`."
        raise _refusal(f"{type(config).__name__}(...)", (why, instead))


def _check_tokens(chosen: object, model: nn.Module) -> None:
    """Refuse rows that PEFT would train without an effect, or with a head that loses its bias."""
    config = getattr(model, "config", None)
    has_two_sides = getattr(config, "is_encoder_decoder", False)
    if has_two_sides and not getattr(config, "tie_word_embeddings", True):
        why = (
            "encoder and decoder read embeddings of their own, beside those in which PEFT trains"
            " rows"
        )
        instead = 'Use parameters of the base as θ: `shared="all"`, or a regular expression.'
        raise _refusal("trainable tokens", (why, instead))

    names = tuple(chosen) if isinstance(chosen, dict) else ()
    biased = [
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and part.bias is not None and name.endswith(names)
    ]
    if names and biased:
        why = f"PEFT leaves out the bias of {biased[0]!r}"
        raise _refusal("trainable tokens", (why, 'Use `modules_to_save=["..."]`.'))


def _is_embedding(module: nn.Module, model: nn.Module) -> bool:
    """Whether a module has the weight of the input embeddings."""
    try:
        embeddings = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return False

    weight = getattr(embeddings, "weight", None)
    return weight is not None and vars(module).get("_parameters", {}).get("weight") is weight


def _refusal(found: str, reason: _Reason) -> ConfigurationError:
    why, instead = reason
    return ConfigurationError(
        "An adapter must be trained, saved and loaded with the same result by this package and by"
        f" PEFT. Found `{found}`: {why}. {instead}"
    )
