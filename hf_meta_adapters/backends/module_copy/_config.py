"""`ModuleCopyConfig`: which modules each language has a copy of, as a configuration of PEFT."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig

from hf_meta_adapters.anatomy.modules import MODULE_KINDS
from hf_meta_adapters.backends.method_name import MethodName
from hf_meta_adapters.errors import ConfigurationError

# `Any`, because PEFT declares a member of its own enumeration
PEFT_TYPE: Any = MethodName("MODULE_COPY")


@dataclass(init=False)
class ModuleCopyConfig(PeftConfig):
    """Replaces f(x; θ_m) by f(x; φ_m) for whole modules m, where each φ_m starts as a copy of θ_m.

    The language-specific layers of Wang, Lipton and Tsvetkov (EMNLP 2020): each language has its
    own layer norms, feed-forwards or attention. The module that is copied stays in the model,
    frozen and outside of θ, so that the base checkpoint is complete and a language that is added
    later starts from it.

    Args:
        modules: `"layer_norm"`, `"feed_forward"` or `"attention"`, found by the structure of the
            model (of its text model, where it has towers for images or sounds); or a list of names
            of modules, ends of such names, or regular expressions of whole names.
        target_modules: The modules that were found, as a regular expression of whole names. Filled
            in when the copies are made.
        modules_to_save: Further modules that every language gets a trained copy of, such as a
            classifier.
        **options: Arguments of `peft.PeftConfig`.

    Raises:
        ConfigurationError: If `modules` is neither a kind nor a list of strings.

    Example:
        >>> from hf_meta_adapters import ModuleCopyConfig, get_language_model
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        ...              intermediate_size=16, vocab_size=9)
        >>> base = BertModel(BertConfig(**sizes))
        >>> model = get_language_model(base, ModuleCopyConfig("layer_norm"), ["en", "sw"])
        >>> sum(copy.numel() for copy in model.language_parameters("sw").values()) == 3 * 2 * 8
        True
    """

    modules: str | list[str] = field(
        default="layer_norm", metadata={"help": "A kind, or names of modules."}
    )
    target_modules: str | list[str] | None = field(
        default=None, metadata={"help": "The modules that were found."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules to train a copy of."}
    )

    def __init__(
        self,
        modules: str | Iterable[str] = "layer_norm",
        *,
        target_modules: str | list[str] | None = None,
        modules_to_save: list[str] | None = None,
        **options: object,
    ) -> None:
        # `PeftConfig` sets `peft_type` to nothing, so it comes first
        super().__init__(**options)
        self.modules = _checked(modules)
        self.target_modules = target_modules
        self.modules_to_save = modules_to_save
        self.peft_type = PEFT_TYPE


def _checked(modules: str | Iterable[str]) -> str | list[str]:
    """A kind, or a list of names in an order that does not depend on the process."""
    if isinstance(modules, str):
        if modules not in MODULE_KINDS:
            raise ConfigurationError(
                f"`modules` must be one of {list(MODULE_KINDS)} or a list of names of modules."
                f" Found {modules[:99]!r}. Use [{modules[:99]!r}] if it is a name."
            )
        return modules

    names = list(modules) if isinstance(modules, Iterable) else []
    if isinstance(modules, (set, frozenset)):
        names.sort()

    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(
            f"`modules` must hold names of modules, as strings. Found"
            f" {reprlib.repr(names or modules)}. Use for example"
            ' ["LayerNorm"].'
        )
    return names
