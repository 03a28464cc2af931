"""What θ is: parameters of the base, or an adapter over a frozen base."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from torch import nn

from hf_meta_adapters.anatomy.name_patterns import check_patterns
from hf_meta_adapters.backends import Backend
from hf_meta_adapters.backends.abilities import SharedPart, TakesSharedPart
from hf_meta_adapters.backends.registry import shared_part_backend
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.hub.base_model import BaseReference
from hf_meta_adapters.modeling._ownership import Held, Ownership

_SHOWN = 5


@dataclass(frozen=True)
class Theta:
    """θ of a model that has no language yet.

    Args:
        held: The ownership of its tensors.
        choice: `"all"`, `"none"` or a regular expression over the parameters of the base.
        part: The adapter that θ is, if it is one.
        reference: The name of a base that need not be saved while it is what that name loads.
    """

    held: Held
    choice: str
    part: SharedPart | None = None
    reference: BaseReference = field(default_factory=BaseReference)


def claim_theta(backend: Backend, shared: object, share_adapter: bool) -> Theta:
    """Find θ in a model, or put it in.

    Args:
        backend: The backend, which holds the model.
        shared: As for `get_language_model`.
        share_adapter: Whether all languages have one adapter, which is then part of θ.

    Raises:
        ConfigurationError: If `shared` is not a choice of θ, or does not go with the languages'
            adapters.
        UnsupportedModelError: If an adapter finds nothing to attach to.
    """
    base = backend.base
    if isinstance(shared, str):
        ownership = Ownership.of_base(base, chosen_names(base, shared))
        return Theta(ownership.held(base), shared)

    if share_adapter:
        raise ConfigurationError(
            "θ must be an adapter by itself or contain the one adapter of all languages. Found"
            f" `share_adapter=True` and `shared={type(shared).__name__}(...)`. Pass `config=None`"
            " with that `shared` to have one adapter."
        )

    if not isinstance(backend, TakesSharedPart):
        raise ConfigurationError(
            "θ can be an adapter only next to language adapters of PEFT. Found language adapters of"
            f' the backend "{backend.name}". Use `shared="all"`, `shared="none"` or a regular'
            " expression."
        )

    # nothing of the base is θ; what is new and trained after `make_shared_part` is
    held = Ownership.of_base(base, set()).held(base)
    part = shared_part_backend().make_shared_part(base, shared)
    try:
        backend.take_shared_part(part)
    except ConfigurationError:
        part.remove()  # the base is the user's, who will try again
        raise

    reference = BaseReference.of(base, part.token_rows)

    # names inside the base, not yet inside the wrapper, whose `named_parameters()` users see
    return Theta(held.after(base).held(base), "none", part, reference)


def chosen_names(base: nn.Module, shared: object) -> set[str] | None:
    """The names of the parameters of θ, or `None` for all that are trained.

    Args:
        base: The model before any adapter.
        shared: `"all"`, `"none"` or a regular expression that is searched in the names.

    Raises:
        ConfigurationError: If the expression is malformed, or matches nothing that is trained.
    """
    if shared == "all":
        return None

    if shared == "none":
        return set()

    rule = (
        '`shared` must be "all", "none" or a regular expression over the names of parameters that'
        " the base trains."
    )
    example = 'Use for example "layer_norm|LayerNorm".'
    if not isinstance(shared, str):
        raise ConfigurationError(
            f"{rule} Found {shared!r} of type `{type(shared).__name__}`. {example}"
        )

    names = [name for name, parameter in base.named_parameters() if parameter.requires_grad]
    try:
        re.compile(shared)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigurationError(f"{rule} Found {shared[:99]!r}: {error}. {example}") from error

    # a manifest may hold one that takes for ever
    check_patterns("shared", [shared], names, "search")
    chosen = {name for name in names if re.search(shared, name)}

    if not chosen:
        raise ConfigurationError(
            f"{rule} Found {shared[:99]!r}, which matches none of {names[:_SHOWN]} and"
            f" {len(names)} in all. Use a part of such names."
        )
    return chosen
