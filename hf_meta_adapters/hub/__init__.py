"""The files of a saved model."""

from hf_meta_adapters.hub._files import (
    MANIFEST,
    SHARED_ADAPTER,
    Family,
    load_base,
    load_weights,
    read_manifest,
    save_family,
)

__all__ = ["MANIFEST", "SHARED_ADAPTER", "Family", "load_base", "load_weights", "read_manifest", "save_family"]
