"""The files of a saved model, and their way to the Hub and back.

Users meet `list_languages` and `citation`, which the root exports; the rest serves `modeling`.
"""

from hf_meta_adapters.errors import moved_names

__getattr__ = moved_names(
    __name__,
    {
        "Access": "hf_meta_adapters.hub.client",
        "Family": "hf_meta_adapters.hub.manifest",
        "MANIFEST": "hf_meta_adapters.hub.manifest",
        "Push": "hf_meta_adapters.hub.push",
        "SHARED_ADAPTER": "hf_meta_adapters.hub.manifest",
        "base_reference": "hf_meta_adapters.hub.base_model",
        "body_name": "hf_meta_adapters.hub.base_model",
        "fetch_family": "hf_meta_adapters.hub.download",
        "list_languages": "hf_meta_adapters.hub.download",
        "load_base": "hf_meta_adapters.hub.loading",
        "load_weights": "hf_meta_adapters.hub.loading",
        "published_card": "hf_meta_adapters.hub.push",
        "push_family": "hf_meta_adapters.hub.push",
        "read_manifest": "hf_meta_adapters.hub.manifest",
        "save_family": "hf_meta_adapters.hub.saving",
        "write_card_file": "hf_meta_adapters.hub.push",
    },
)
