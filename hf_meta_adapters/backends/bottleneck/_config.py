"""`BottleneckConfig`: what the bottleneck adapter is, as the configuration of a PEFT method."""

from __future__ import annotations

import difflib
import math
import reprlib
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig
from transformers.activations import ACT2FN

from hf_meta_adapters.backends.method_name import MethodName
from hf_meta_adapters.errors import ConfigurationError

# `Any`, because PEFT declares a member of its own enumeration
PEFT_TYPE: Any = MethodName("BOTTLENECK")

MODEL_ACTIVATION = "model"
"""The `non_linearity` that stands for the activation of the model."""

REDUCTION = 6
"""The default `reduction_factor`: the paper's width, 128, for the paper's model, of width 768."""

_WIDEST = 2**20
"""Wider than any model: a file may ask for more than a machine has room for."""


@dataclass
class BottleneckConfig(PeftConfig):
    """Computes `h + up(act(down(h)))` behind every attention and every feed-forward sublayer.

    The adapter of Houlsby et al. (2019, arXiv:1902.00751), as Wang, Lipton and Tsvetkov (EMNLP
    2020) use it for each language. `h` is the output of the sublayer's output projection, before
    the sublayer's dropout, its residual connection and whatever norm follows; cross-attention has
    an adapter of its own. The residual inside, with an up-projection that starts at zero, makes a
    fresh adapter the identity.

    An encoder or a decoder of L layers gets 2L adapters, an encoder-decoder 2L + 3L. Each has 2dm +
    d + m parameters, for the width d of the model and m of the bottleneck.

    The structure of the model tells where the output projections are; where images or sounds have
    towers of their own, those of the text model. They are recorded in `target_modules`, so that a
    saved adapter says where it belongs. Adapters that are active together are applied in the order
    given, as a stack. They cannot be merged. `adapter_names` routes the rows of a batch to
    different adapters, also in training.

    Args:
        bottleneck_size: The width m. Default: the model's width // `reduction_factor`, and recorded
            here when the adapter is put into a model.
        reduction_factor: The model's width as a multiple of m, at least 1, in place of
            `bottleneck_size`, as in `adapters.AdapterConfig`. Default 6, which for the paper's
            model (768 units) gives the paper's adapter (128).
        non_linearity: `"model"` for the activation that the model's own config names ("gelu" where
            it names none), or a name in `transformers.activations.ACT2FN` such as `"relu"`.
        dropout: The probability of dropout on the input of `down`, in [0, 1).
        after_attention: Whether an adapter follows every attention.
        after_feed_forward: Whether an adapter follows every feed-forward.
        layers_to_transform: The number or numbers of the layers that get adapters; by default all.
        target_modules: Ends of names of linear layers to put adapters behind, or a regular
            expression of whole names, instead of those that are found.
        modules_to_save: Modules that every adapter gets a trained copy of, such as a classifier.
        init_weights: `False` starts the up-projection at random, so that a fresh adapter does
            something.

    Raises:
        ConfigurationError: If a value is out of its range, or both widths are given.

    Example:
        >>> from hf_meta_adapters import BottleneckConfig
        >>> from peft import get_peft_model
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(hidden_size=8, num_hidden_layers=3, num_attention_heads=2,
        ...              intermediate_size=16, vocab_size=9)
        >>> base = BertModel(BertConfig(**sizes))
        >>> model = get_peft_model(base, BottleneckConfig(bottleneck_size=4), "sw")
        >>> model.get_nb_trainable_parameters()[0] == 3 * 2 * (2 * 8 * 4 + 8 + 4)
        True
        >>> model.peft_config["sw"].target_modules
        ['attention.output.dense', 'output.dense']
    """

    bottleneck_size: int | None = field(default=None, metadata={"help": "Width of the bottleneck."})
    reduction_factor: float | None = field(
        default=None, metadata={"help": "Width of the model as a multiple of the bottleneck's."}
    )
    non_linearity: str = field(
        default=MODEL_ACTIVATION, metadata={"help": 'Name of an activation, or "model".'}
    )
    dropout: float = field(default=0.0, metadata={"help": "Dropout on the adapter's input."})
    after_attention: bool = field(
        default=True, metadata={"help": "Whether to adapt the output of attention."}
    )
    after_feed_forward: bool = field(
        default=True, metadata={"help": "Whether to adapt the output of feed-forwards."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Layers with adapters."}
    )
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Linear layers to adapt."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules to train a copy of."}
    )
    init_weights: bool = field(
        default=True, metadata={"help": "Whether a fresh adapter is the identity."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE

        if isinstance(self.target_modules, (set, tuple)):
            # a list in an order that does not depend on the process, as a saved file has it
            self.target_modules = sorted(self.target_modules)

        if self.bottleneck_size is None and self.reduction_factor is None:
            self.reduction_factor = REDUCTION

        self._check_types()
        self._check_width()
        self._check_dropout()
        self._check_activation()
        self._check_places()

    @property
    def layer_numbers(self) -> list[int] | None:
        """`layers_to_transform` as a list, or `None` for all layers."""
        if isinstance(self.layers_to_transform, int):
            return [self.layers_to_transform]

        return self.layers_to_transform

    def _check_types(self) -> None:
        """Refuse what a file may hold where a type is meant that Python would take for another."""
        for name in ("after_attention", "after_feed_forward", "init_weights"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise _mistyped(name, "true or false", value, "True")

        names = self.target_modules
        if not (names is None or isinstance(names, str) or _holds(names, str)):
            raise _mistyped("target_modules", "names of modules or an expression", names, "None")

        if not (self.modules_to_save is None or _holds(self.modules_to_save, str)):
            rule = "a list of names of modules"
            raise _mistyped("modules_to_save", rule, self.modules_to_save, '["classifier"]')

        layers = self.layers_to_transform
        if not (layers is None or _holds([layers], int) or _holds(layers, int)):
            raise _mistyped("layers_to_transform", "numbers of layers", layers, "[0, 1]")

    def resolve_width(self, model_width: int) -> None:
        """Set `bottleneck_size` for a model of some width, if it is not set.

        Args:
            model_width: d.
        """
        if self.reduction_factor is not None:
            self.bottleneck_size = max(1, int(model_width // self.reduction_factor))
            self.reduction_factor = None

    def _check_width(self) -> None:
        size, factor = self.bottleneck_size, self.reduction_factor
        if size is not None and factor is not None:
            raise ConfigurationError(
                "`bottleneck_size` and `reduction_factor` both say how wide an adapter is. Found"
                f" {reprlib.repr(size)} and {reprlib.repr(factor)}. Leave one of them out."
            )

        if factor is not None:
            # not NaN, which is not at least 1
            if not _is_number(factor) or not 1 <= factor < math.inf:
                raise ConfigurationError(
                    "`reduction_factor` must be a number of at least 1. Found"
                    f" {reprlib.repr(factor)}. Set it for example to 16, or set `bottleneck_size`."
                )
            return

        # to Python, `True` is the integer 1
        if size is None or not _holds([size], int) or size < 1:
            raise ConfigurationError(
                "`bottleneck_size` must be a positive integer. Found"
                f" {reprlib.repr(size)}. Set it for example to 128."
            )

        if size > _WIDEST:
            raise ConfigurationError(
                f"`bottleneck_size` must be at most {_WIDEST:,}. Found {reprlib.repr(size)}. Set it"
                " for example to 128."
            )

    def _check_dropout(self) -> None:
        dropout = self.dropout
        if not _is_number(dropout) or not 0 <= dropout < 1:
            raise ConfigurationError(
                f"`dropout` must be in [0, 1). Found {reprlib.repr(dropout)}. Set it for example to"
                " 0.1."
            )

    def _check_activation(self) -> None:
        name = self.non_linearity
        if isinstance(name, str) and (name == MODEL_ACTIVATION or name in ACT2FN):
            return

        # `str`, for `None` and the like, which a file may hold; short, since a search takes long
        nearest = difflib.get_close_matches(str(name)[:99], ACT2FN, n=1) or ["relu"]
        raise ConfigurationError(
            '`non_linearity` must be "model" or the name of an activation of transformers. Found'
            f" {reprlib.repr(name)}. Set it for example to {nearest[0]!r}."
        )

    def _check_places(self) -> None:
        if not (self.after_attention or self.after_feed_forward or self.target_modules):
            raise ConfigurationError(
                "`after_attention` or `after_feed_forward` must be true, or `target_modules` must"
                " be set. Found neither. Leave all three out to adapt both."
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _holds(values: object, kind: type) -> bool:
    """Whether something is a list or a set of one type; to Python, `True` is an integer, too."""
    if not isinstance(values, list | set | tuple):
        return False

    return all(isinstance(value, kind) and not isinstance(value, bool) for value in values)


def _mistyped(setting: str, rule: str, value: object, example: str) -> ConfigurationError:
    return ConfigurationError(
        f"`{setting}` must be {rule}. Found {reprlib.repr(value)} of type"
        f" `{type(value).__name__}`. Set it for example to {example}."
    )
