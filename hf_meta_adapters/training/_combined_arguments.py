"""Which arguments of the outer step work together."""

from __future__ import annotations

from collections.abc import Mapping

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.training._weight_arguments import check_weight_arguments

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
"""What `lookahead="next"` needs: argument → its default, which alone works, and why."""

_PROJECTION = {
    "update_order": ("alternating", "takes the gradient of θ when φ has moved, without v"),
    "adapter_update": ("train", "does not compute v"),
}
"""Argument → the value that cannot be combined with a projection of θ, and why."""


def check_combinations(arguments: Mapping[str, object]) -> None:
    """Check that no argument asks for what another one rules out.

    Args:
        arguments: The arguments, by name.

    Raises:
        ConfigurationError: If one does.
    """
    _check_next_step(arguments)
    check_weight_arguments(arguments)
    if arguments["shared_update"] != "project":
        return

    for name, (value, reason) in _PROJECTION.items():
        if arguments[name] == value:
            raise ConfigurationError(
                '`shared_update="project"` compares the training gradient of θ with the gradient v'
                f' of the validation losses. Found `{name}="{value}"`, which {reason}. Leave one of'
                " the two out."
            )


def needs_meta_gradient(
    shared_update: str | None, adapter_update: str, *, has_adapters: bool
) -> bool:
    """Whether training takes meta-gradients.

    Args:
        shared_update: How θ is updated.
        adapter_update: What updates φ.
        has_adapters: Whether a language has parameters of its own.

    Returns:
        Whether it does.

    Raises:
        ConfigurationError: If θ is to be projected, and there is no φ.
    """
    if shared_update == "project" and not has_adapters:
        raise ConfigurationError(
            '`shared_update="project"` projects θ in the outer step. Found a model in which no'
            " language has parameters of its own, and which is trained without one. Give it"
            " adapters (`get_language_model(model, BottleneckConfig(), ...)`)."
        )
    return adapter_update != "train" and has_adapters


def _check_next_step(arguments: Mapping[str, object]) -> None:
    """Check that no argument asks for what the look-ahead to the next step does not do."""
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
