"""Which settings of PEFT hold regular expressions, and what PEFT makes of them."""

from __future__ import annotations

from peft import PeftConfig
from torch import nn

from hf_meta_adapters.anatomy.name_patterns import check_patterns

_WHOLE = ("target_modules", "exclude_modules", "feedforward_modules", "modules")
"""Whole names match these, if they are single texts, or texts of our own methods."""

# What PEFT writes around an expression: the end of a name, any part of it, or a numbered list.
_END = r"(.*\.)?({})$"
_INSIDE = r"(^|.*\.){}($|\..*)"
_NUMBERED = r"(^|.*?\.){}\.(\d+)\."


def check_config_patterns(model: nn.Module, config: PeftConfig) -> None:
    """Refuse a configuration with regular expressions that are malformed or take too long.

    Args:
        model: The model, whose names of modules they will be matched with.
        config: The configuration.

    Raises:
        ConfigurationError: If there are any.
    """
    names = [name for name, _ in model.named_modules()]
    settings = vars(config)

    for setting in _WHOLE:
        value = settings.get(setting)
        # PEFT takes a list to be ends of names, but `ModuleCopyConfig` takes expressions
        if isinstance(value, str) or setting == "modules":
            check_patterns(setting, _texts(value), names)

    for setting, form in (("layers_pattern", _NUMBERED), ("modules_to_save", _INSIDE)):
        expressions = [form.format(text) for text in _texts(settings.get(setting))]
        check_patterns(setting, expressions, names, "match")

    # `rank_pattern`, `alpha_pattern` and their like in other methods
    for setting, value in settings.items():
        if setting.endswith("_pattern") and isinstance(value, dict):
            expressions = [_END.format(text) for text in _texts(list(value))]
            check_patterns(setting, expressions, names, "match")


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list | tuple | set):
        return []

    return [text for text in value if isinstance(text, str)]
