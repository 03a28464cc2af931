"""The files of a saved model."""

from hf_meta_adapters.hub._files import base_reference, body_name, load_base, load_weights, save_family
from hf_meta_adapters.hub._manifest import MANIFEST, SHARED_ADAPTER, Family, read_manifest

__all__ = [
    "MANIFEST",
    "SHARED_ADAPTER",
    "Family",
    "base_reference",
    "body_name",
    "load_base",
    "load_weights",
    "read_manifest",
    "save_family",
]
