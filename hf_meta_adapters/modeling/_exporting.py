"""One language as a single LoRA in a folder of its own."""

from __future__ import annotations

from pathlib import Path

from hf_meta_adapters.backends import Backend
from hf_meta_adapters.backends.abilities import ExportsLora
from hf_meta_adapters.errors import ConfigurationError


def export(backend: Backend, adapter: str, folder: Path, base_name: str) -> None:
    """Write θ and φ of a language as one LoRA of PEFT.

    Args:
        backend: The backend, which holds the model.
        adapter: The adapter of the language in the backend.
        folder: Where to; created if it is missing.
        base_name: What the base model is called; "" if it has no name.

    Raises:
        ConfigurationError: If there is something in the folder, or the method is no LoRA.
    """
    if folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigurationError(
            f"A LoRA is exported to a folder that is new or empty. Found {folder}, which is not."
            " Remove it, or name another one."
        )

    if not isinstance(backend, ExportsLora):
        raise ConfigurationError(
            "One LoRA can be exported of adapters that are LoRA. Found the backend"
            f' "{backend.name}". Export the plain model of the language instead:'
            " `merge_language(language)`, then `save_pretrained`."
        )

    backend.export_lora(adapter, folder, base_name or None)
