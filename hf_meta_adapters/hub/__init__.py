"""The files of a saved model."""

from hf_meta_adapters.hub._files import MANIFEST, Family, load_base, read_manifest, save_base, write_manifest

__all__ = ["MANIFEST", "Family", "load_base", "read_manifest", "save_base", "write_manifest"]
