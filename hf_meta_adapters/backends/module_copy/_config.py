"""`ModuleCopyConfig`: which modules each language has a copy of, as the configuration of a PEFT method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig

from hf_meta_adapters.anatomy.modules import MODULE_KINDS
from hf_meta_adapters.errors import ConfigurationError

PEFT_TYPE: Any = (
    "MODULE_COPY"  # PEFT's own enumeration of methods is closed; a string serves as well
)


@dataclass(init=False)
class ModuleCopyConfig(PeftConfig):
    """Replaces f(x; θ_m) by f(x; φ_m) for whole modules m, where each φ_m starts as a copy of θ_m.

    The language-specific layers of Wang, Lipton and Tsvetkov (EMNLP 2020): each language has its
    own layer norms, feed-forwards or attention. The module that is copied stays in the model,
    frozen and outside of θ, so that the base checkpoint is complete and a language that is added
    later starts from it.

    Args:
        modules: `"layer_norm"`, `"feed_forward"` or `"attention"`, found by the structure of the
            model; or a list of names of modules, ends of such names, or regular expressions of
            whole names.
        target_modules: What was found, a regular expression of whole names. Written when the copies
            are made.
        modules_to_save: Further modules that every language gets a trained copy of, such as a
            classifier.
        **options: Of `peft.PeftConfig`.

    Raises:
        ConfigurationError: If `modules` is no kind and no list of strings.

    Example:
        >>> from hf_meta_adapters import ModuleCopyConfig, get_language_model
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=9)
        >>> base = BertModel(BertConfig(**sizes))
        >>> model = get_language_model(base, ModuleCopyConfig("layer_norm"), languages=["en", "sw"])
        >>> sum(parameter.numel() for parameter in model.language_parameters("sw").values()) == 3 * 2 * 8
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
        modules: str | Sequence[str] = "layer_norm",
        *,
        target_modules: str | list[str] | None = None,
        modules_to_save: list[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.modules = modules if isinstance(modules, str) else _names(modules)
        self.target_modules, self.modules_to_save = target_modules, modules_to_save
        self.peft_type = PEFT_TYPE
        if isinstance(modules, str) and modules not in MODULE_KINDS:
            raise ConfigurationError(
                f"`modules` must be one of {list(MODULE_KINDS)} or a list of names of modules. Found"
                f" {modules!r}. Write [{modules!r}] if it is a name."
            )


def _names(modules: Any) -> list[str]:
    names = sorted(modules) if isinstance(modules, (set, frozenset)) else list(modules)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(
            f"`modules` must hold names of modules, as strings. Found {names!r}. Write for example"
            ' ["LayerNorm"].'
        )
    return names
