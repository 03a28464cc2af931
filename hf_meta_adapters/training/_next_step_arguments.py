"""Which arguments work beside `lookahead="next"`."""

from __future__ import annotations

from collections.abc import Mapping

from hf_meta_adapters.errors import ConfigurationError

_REQUIRED = {
    "update_order": ("simultaneous", "θ and φ move in one step of the optimizer"),
    "adapter_update": (
        "meta",
        "its direct part is the training gradient of φ, which would count twice",
    ),
    "inner_optimizer": ("sgd", "the virtual step is the one that the optimizer takes"),
    "inner_learning_rate": (0.01, "the virtual step is the one that the optimizer takes"),
    "meta_batch_size": (None, "the rows of the next training step are the meta text"),
}
"""Argument → its default, which alone works, and why."""


def check_next_step(arguments: Mapping[str, object]) -> None:
    """Check that no argument asks for what the look-ahead to the next step does not do.

    Args:
        arguments: The arguments, by name.

    Raises:
        ConfigurationError: If one does.
    """
    # "train" takes no meta-gradient at all, whatever the look-ahead.
    if arguments["lookahead"] != "next" or arguments["adapter_update"] == "train":
        return

    for name, (default, reason) in _REQUIRED.items():
        if arguments[name] != default:
            raise ConfigurationError(
                f'`lookahead="next"` needs `{name}={default!r}`: {reason}. Found'
                f" {arguments[name]!r}. Leave `{name}` out, or use another look-ahead."
            )


def needs_meta_text(lookahead: str | None, meta: object) -> bool:
    """Whether meta-gradients are taken on meta text.

    Args:
        lookahead: The look-ahead.
        meta: The meta data, if there is any.

    Returns:
        Whether they are.

    Raises:
        ConfigurationError: If meta data is given that no step would read.
    """
    if lookahead != "next":
        return True

    if meta is not None:
        raise ConfigurationError(
            '`lookahead="next"` takes the training text of the next step for meta text, and reads'
            " no other. Found a `meta_dataset`. Leave it out (its rows may be training rows), or"
            ' use another look-ahead, such as `"shared"`.'
        )
    return False
