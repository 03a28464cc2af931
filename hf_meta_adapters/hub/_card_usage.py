"""What a published family is, and how it is loaded, as the first sections of its model card."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hf_meta_adapters.hub._language_names import language_name
from hf_meta_adapters.hub.manifest import SHARED_ADAPTER, Family


def cell(text: object) -> str:
    """Text that may be somebody else's, harmless inside a table or a sentence."""
    return re.sub(r"[|<>`\[\]\s]+", " ", str(text)).strip()[:200]


def description(family: Family) -> Iterator[str]:
    """What is in the repository, and what is not."""
    adapters = "with one adapter per language"
    if family.backend == "none":
        adapters = "without language-specific parameters"
    if family.one_adapter_for_all:
        adapters = f"with one adapter for all languages, in `{SHARED_ADAPTER}/`"

    languages = ", ".join(map(language_name, family.languages))
    yield f"A `{family.base_class}` {adapters}, shared weights for all. Languages: {languages}."

    if family.base_model:
        base = f"`{cell(family.base_model)}`"
        if family.base_revision:
            base += f" at commit `{cell(family.base_revision)}`"

        yield (
            f"The base is not in this repository: it is {base}, frozen. What all languages share is"
            f" the adapter in `{SHARED_ADAPTER}/`."
        )


def usage(family: Family, repo_id: str) -> Iterator[str]:
    """How to load it with this package and, where that is possible, without."""
    key = family.languages[0]

    yield (
        "## Use\n\nOnly the files of the languages that are asked for are downloaded:\n\n"
        "```python\n"
        "from hf_meta_adapters import LanguageAdapterModel\n\n"
        f'model = LanguageAdapterModel.from_pretrained("{repo_id}", languages=["{key}"])\n'
        f'outputs = model(language="{key}", **inputs)\n'
        "```"
    )

    # A θ that is an adapter needs this package: PEFT does not stack a language's adapter on it.
    if family.backend == "none":
        yield _with_transformers(family, repo_id)
    elif family.backend == "adapters":
        yield _with_adapters(family, repo_id)
    elif family.backend == "peft" and not family.theta_is_adapter:
        yield _with_peft(family, repo_id)


def _with_transformers(family: Family, repo_id: str) -> str:
    return f"Without the package:\n\n```python\n{_imported(family)}\n{_base(family, repo_id)}```"


def _with_peft(family: Family, repo_id: str) -> str:
    adapter = family.adapters(family.languages)[0]

    return (
        "Without the package:\n\n"
        "```python\n"
        "from peft import PeftModel\n"
        f"{_imported(family)}\n"
        f"{_base(family, repo_id)}"
        f'model = PeftModel.from_pretrained(base, "{repo_id}", subfolder="{adapter}")\n'
        "```\n\n"
        "The bottleneck and module-copy adapters of the package need `import hf_meta_adapters`"
        " beforehand."
    )


def _with_adapters(family: Family, repo_id: str) -> str:
    adapter = family.adapters(family.languages)[0]

    return (
        "Without the package:\n\n"
        "```python\n"
        "import adapters\n"
        "from huggingface_hub import snapshot_download\n"
        f"{_imported(family)}\n"
        f"{_base(family, repo_id)}"
        "adapters.init(base)\n"
        f'folder = snapshot_download("{repo_id}", allow_patterns="{adapter}/*")\n'
        f'name = base.load_adapter(f"{{folder}}/{adapter}", use_safetensors=True)\n'
        "base.set_active_adapters(name)\n"
        "```"
    )


def _imported(family: Family) -> str:
    return f"from transformers import {family.base_class}\n"


def _base(family: Family, repo_id: str) -> str:
    source = family.base_model or repo_id
    return f'base = {family.base_class}.from_pretrained("{source}")\n'
