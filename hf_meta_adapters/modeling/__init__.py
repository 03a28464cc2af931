"""A transformers model with parameters of its own for each language.

The root exports `LanguageAdapterModel` and `get_language_model`.
"""

from hf_meta_adapters.errors import moved_names

__getattr__ = moved_names(
    __name__,
    {
        "LanguageAdapterModel": "hf_meta_adapters.modeling.model",
        "get_language_model": "hf_meta_adapters.modeling.factory",
    },
)
