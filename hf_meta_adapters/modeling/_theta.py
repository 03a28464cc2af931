"""What θ is: parameters of the base, or an adapter over a frozen base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_meta_adapters.backends import Backend
from hf_meta_adapters.backends.abilities import SharedPart, TakesSharedPart
from hf_meta_adapters.backends.registry import backend_named
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.hub.base_model import base_reference
from hf_meta_adapters.hub.manifest import SHARED_ADAPTER, Family
from hf_meta_adapters.modeling._ownership import Held, Ownership, chosen_names


@dataclass
class Claim:
    """θ of a model that has no language yet.

    Args:
        held: The ownership of its tensors.
        choice: `"all"`, `"none"` or a regular expression over the parameters of the base.
        part: The adapter that θ is, if it is one.
        base_name: The name and the commit of a base that need not be saved, otherwise "" and "".
    """

    held: Held
    choice: str
    part: SharedPart | None = None
    base_name: tuple[str, str] = ("", "")


def claim_shared(backend: Backend, shared: Any, share_adapter: bool) -> Claim:
    """Find θ in a model, or put it in.

    Args:
        backend: Holds the model.
        shared: As for `get_language_model`.
        share_adapter: Whether all languages have one adapter, which is then part of θ.

    Raises:
        ConfigurationError: If it is nothing of that kind, or does not go with the languages'
            adapters.
        UnsupportedModelError: If an adapter finds nothing to attach to.
    """
    base = backend.base
    if isinstance(shared, str):
        return Claim(Ownership.of_base(base, chosen_names(base, shared)).held(base), shared)
    if share_adapter:
        raise ConfigurationError(
            "θ must be an adapter by itself or hold the one adapter of all languages. Found"
            f" `share_adapter=True` and `shared={type(shared).__name__}(...)`. Write `config=None`"
            " with that `shared` for one adapter."
        )
    if not isinstance(backend, TakesSharedPart):
        raise ConfigurationError(
            "θ can be an adapter only beside language adapters of PEFT. Found language adapters of"
            " the backend "
            f'"{backend.name}". Write `shared="all"`, `shared="none"` or a regular expression.'
        )
    name = base_reference(base)
    held = Ownership.of_base(base, set()).held(base)
    part = backend.share(shared)
    return Claim(held.after(base).held(base), "none", part, name)


def shared_config(folder: Path, family: Family, wanted: Any, body: str | None) -> Any:
    """What `get_language_model` takes as `shared` for a saved model.

    Args:
        folder: Of the saved model.
        family: Its manifest.
        wanted: What the user asks for; `None` for what was saved.
        body: As for `Backend.saved_config`.

    Raises:
        ConfigurationError: If another θ is asked for where it is an adapter.
    """
    if not family.theta_is_adapter:
        return family.shared if wanted is None else wanted
    if wanted not in (None, "none"):
        raise ConfigurationError(
            '`shared` must be "none" where the saved θ is an adapter, which freezes it, or be left'
            f' out. Found {wanted!r}. Write `shared="none"`.'
        )
    return backend_named("peft").saved_config(folder / SHARED_ADAPTER, body)
