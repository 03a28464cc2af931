"""The layer and the kind of a parameter, read from its name."""

from __future__ import annotations

import re

__all__ = ["PARAMETER_KINDS", "layer_index", "layer_of", "parameter_kind"]

PARAMETER_KINDS = ("attention", "feed_forward", "layer_norm", "embeddings", "other")
"""The kinds of parameters, in the order of tables and plots."""

_LAYER = re.compile(r"(?:^|\.)((?:(?:encoder|decoder)\.)?[A-Za-z_]\w*\.\d+)\.|^(\d+)\.")

# The first match counts: "attention.output.LayerNorm" is a norm, "attention.output.dense"
# belongs to attention, "output.dense" to neither.
_RULES = (
    ("layer_norm", re.compile(r"norm|(?:^|\.)ln(?:_|\d|\.)", re.IGNORECASE)),
    ("attention", re.compile(r"attention|attn", re.IGNORECASE)),
    (
        "embeddings",
        re.compile(
            r"embed|(?:^|\.)(?:wte|wpe|shared)\."
            r"|(?:lm_head|(?:lm_head|predictions)\.decoder)\.weight$"
        ),
    ),
)
_FEED_FORWARD = re.compile(
    r"mlp|ffn|feed_forward|feedforward|intermediate|DenseReluDense|experts"
    r"|(?:^|\.)(?:output\.dense|fc\d|lin\d|wi|wo|ff)(?:_\d)?\."
)


def layer_of(name: str) -> str:
    """Return the layer of a parameter: the first number in its name, with the word before it.

    Args:
        name: A name in `named_parameters()` of BERT, XLM-R, Llama, GPT-2, T5, BART or a similar
            model.

    Returns:
        The layer, such as `"encoder.layer.3"`, `"layers.3"`, `"h.3"` or `"decoder.block.3"`;
        `"embeddings"` or `"other"` for a parameter outside the numbered layers.

    Example:
        >>> layer_of("bert.encoder.layer.3.attention.self.query.weight")
        'encoder.layer.3'
        >>> layer_of("roberta.embeddings.word_embeddings.weight")
        'embeddings'
    """
    numbered = _LAYER.search(name)
    if numbered is not None:
        return numbered.group(1) or numbered.group(2)

    # The name decides before the kind: the norm of "embeddings.LayerNorm" lies in the embeddings.
    if "embed" in name or parameter_kind(name) == "embeddings":
        return "embeddings"

    return "other"


def layer_index(layer: str) -> int | None:
    """Return the number of a layer as [`layer_of`] names it; `None` outside the numbered layers.

    Example:
        >>> layer_index("encoder.layer.3"), layer_index("embeddings")
        (3, None)
    """
    last = layer.rpartition(".")[2]
    if last.isdigit():
        return int(last)

    return None


def parameter_kind(name: str) -> str:
    """Return the kind of a parameter, one of [`PARAMETER_KINDS`].

    Input and output embeddings are one kind.

    Example:
        >>> [parameter_kind(f"h.0.{part}.weight") for part in ("attn.c_attn", "mlp.c_fc", "ln_1")]
        ['attention', 'feed_forward', 'layer_norm']
    """
    for kind, rule in _RULES:
        if rule.search(name):
            return kind

    # Only inside a layer: "lm_head.dense" and "pooler.dense" are heads.
    if _LAYER.search(name) and _FEED_FORWARD.search(name):
        return "feed_forward"

    return "other"
