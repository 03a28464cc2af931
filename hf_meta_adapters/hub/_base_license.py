"""The licence of a base on the Hub, which a family inherits unless its owner names another."""

from __future__ import annotations

from dataclasses import replace

import yaml
from huggingface_hub import hf_hub_download, metadata_load
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

from hf_meta_adapters.hub._card import CARD
from hf_meta_adapters.hub._card_usage import base_repository
from hf_meta_adapters.hub.client import NO_ANSWER, Access
from hf_meta_adapters.hub.manifest import Family

_UNKNOWN = (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    OSError,
    ValueError,
    yaml.YAMLError,
    *NO_ANSWER,
)


def with_base_license(family: Family, existing: str | None, access: Access) -> Family:
    """A manifest for the card, with the licence of the base if there is no other.

    Args:
        family: The manifest.
        existing: The present card, whose licence stays.
        access: How the Hub is reached.
    """
    base = base_repository(family)
    has_own = "license" in family.details or "\nlicense:" in (existing or "")
    if base is None or has_own:
        return family

    # Of somebody else, so that no fault in it is a reason not to publish.
    try:
        card = hf_hub_download(base, CARD, token=access.token, cache_dir=access.cache_dir)
        named = (metadata_load(card) or {}).get("license")
    except _UNKNOWN:
        return family

    if not isinstance(named, str):
        return family
    return replace(family, details={**family.details, "license": named})
