"""To which layer, and to which kind, a parameter belongs, told from its name."""

from __future__ import annotations

import re

__all__ = ["KINDS", "layer_index", "layer_of", "parameter_kind"]

KINDS = ("attention", "feed_forward", "layer_norm", "embeddings", "other")
"""The kinds of parameters, in the order of tables and plots."""

_LAYER = re.compile(r"(?:^|\.)((?:(?:encoder|decoder)\.)?[A-Za-z_]\w*\.\d+)\.|^(\d+)\.")

# The order matters: "attention.output.LayerNorm" is a norm, "attention.output.dense" attention,
# "output.dense" neither.
_RULES = (
    ("layer_norm", re.compile(r"norm|(?:^|\.)ln(?:_|\d|\.)", re.IGNORECASE)),
    ("attention", re.compile(r"attention|attn", re.IGNORECASE)),
    (
        "embeddings",
        re.compile(
            r"embed|(?:^|\.)(?:wte|wpe|shared)\.|(?:lm_head|(?:lm_head|predictions)\.decoder)\.weight$"
        ),
    ),
)
_FEED_FORWARD = re.compile(
    r"mlp|ffn|feed_forward|feedforward|intermediate|DenseReluDense|experts|(?:^|\.)(?:output\.dense|fc\d|lin\d|wi|wo|ff)"
    r"(?:_\d)?\."
)


def layer_of(name: str) -> str:
    """Return the layer of a parameter: the first numbered part of its name, with the word before it.

    Args:
        name: A name in `named_parameters()`, of BERT, XLM-R, Llama, GPT-2, T5, BART and models like
            them.

    Returns:
        Such as `"encoder.layer.3"`, `"layers.3"`, `"h.3"` or `"decoder.block.3"`; `"embeddings"` or
        `"other"` for what is in no numbered layer.

    Example:
        >>> layer_of("bert.encoder.layer.3.attention.self.query.weight")
        'encoder.layer.3'
        >>> layer_of("roberta.embeddings.word_embeddings.weight")
        'embeddings'
    """
    if found := _LAYER.search(name):
        return found.group(1) or found.group(2)
    return (
        "embeddings"
        if re.search(r"embed", name) or parameter_kind(name) == "embeddings"
        else "other"
    )


def layer_index(layer: str) -> int | None:
    """Return the number of a layer named by [`layer_of`], or `None` for what is in no numbered layer.

    Example:
        >>> layer_index("encoder.layer.3"), layer_index("embeddings")
        (3, None)
    """
    last = layer.rpartition(".")[2]
    return int(last) if last.isdigit() else None


def parameter_kind(name: str) -> str:
    """Return the kind of a parameter, one of [`KINDS`]; embeddings are those of the input and of the output.

    Example:
        >>> [parameter_kind(f"h.0.{part}.weight") for part in ("attn.c_attn", "mlp.c_fc", "ln_1")]
        ['attention', 'feed_forward', 'layer_norm']
    """
    for kind, rule in _RULES:
        if rule.search(name):
            return kind
    return "feed_forward" if _LAYER.search(name) and _FEED_FORWARD.search(name) else "other"
