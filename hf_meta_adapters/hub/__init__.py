"""The files of a saved model, and their way to the Hub and back."""

from hf_meta_adapters.hub._client import Access
from hf_meta_adapters.hub._download import fetch_family, list_languages
from hf_meta_adapters.hub._files import base_reference, body_name, load_base, load_weights, save_family
from hf_meta_adapters.hub._manifest import MANIFEST, SHARED_ADAPTER, Family, read_manifest
from hf_meta_adapters.hub._push import Push, published_card, push_family, write_card_file

__all__ = [
    "MANIFEST",
    "SHARED_ADAPTER",
    "Access",
    "Family",
    "Push",
    "base_reference",
    "body_name",
    "fetch_family",
    "list_languages",
    "load_base",
    "load_weights",
    "published_card",
    "push_family",
    "read_manifest",
    "save_family",
    "write_card_file",
]
