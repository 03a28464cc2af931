"""What a published family is, and how it is loaded, as the first sections of its model card."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hf_meta_adapters.hub._card_files import CardFiles
from hf_meta_adapters.hub._card_task import is_in_transformers, pipeline_tag, reads_text
from hf_meta_adapters.hub._language_names import language_name
from hf_meta_adapters.hub._measurements import number
from hf_meta_adapters.hub.base_model import is_repo_id
from hf_meta_adapters.hub.manifest import SHARED_ADAPTER, Family
from hf_meta_adapters.hub.record import MERGED

NAME = "hf-meta-adapters"
"""The name of the package where it is installed from."""

_BACKENDS = ("none", "peft", "adapters")
_OWN_METHODS = ("BOTTLENECK", "MODULE_COPY")
"""PEFT's names for the methods that this package registers."""


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

    yield from _origin(family)

    if family.base_model:
        base = f"`{cell(family.base_model)}`"
        if family.base_revision:
            base += f" at commit `{cell(family.base_revision)}`"

        yield (
            f"The base is not in this repository: it is {base}, frozen. What all languages share is"
            f" the adapter in `{SHARED_ADAPTER}/`."
        )


def _origin(family: Family) -> Iterator[str]:
    """What a merged family was merged from."""
    merged = family.details.get(MERGED)
    if not isinstance(merged, Mapping) or not isinstance(merged.get("families"), list):
        return

    # a manifest may come from anywhere, and hold anything
    known = [expert for expert in merged["families"] if isinstance(expert, Mapping)]
    method = f"`{cell(merged.get('method'))}`"
    density = number(merged.get("density"))
    if density is not None:
        method += f", density {density:.4g}"
    yield f"Merged by `merge_families` ({method}) from: {'; '.join(map(_expert, known))}."


def _expert(expert: Mapping[str, object]) -> str:
    name, languages = expert.get("name"), expert.get("languages")
    label = f"`{cell(name)}`" if name else "a model in memory"

    notes = []
    if isinstance(languages, list):
        notes.append(", ".join(map(cell, languages)))
    weight = number(expert.get("weight"))
    if weight is not None:
        notes.append(f"weight {weight:.4g}")
    return f"{label} ({'; '.join(notes)})"


def base_repository(family: Family) -> str | None:
    """The repository of the base, or the recorded one that training began from; no folder."""
    name = family.base_model or family.details.get("base_model")
    if not isinstance(name, str) or not is_repo_id(name):
        return None
    return name


@dataclass(frozen=True)
class Shown:
    """What the code on a card is written for.

    Args:
        family: The manifest.
        files: The files beside the card.
        repo_id: The repository.
    """

    family: Family
    files: CardFiles
    repo_id: str

    @property
    def key(self) -> str:
        """The language of the examples."""
        return self.family.languages[0]

    @property
    def tokenizer(self) -> str:
        """The repository that has a tokenizer; "" if none is known."""
        if self.files.has_tokenizer:
            return self.repo_id
        return base_repository(self.family) or ""

    @property
    def writes_text(self) -> bool:
        """Whether the model is one that generates a text for a text."""
        return pipeline_tag(self.family.base_class) == "text2text-generation"


def usage(family: Family, files: CardFiles, repo_id: str) -> Iterator[str]:
    """How to install what is needed, and how to load it with this package and without."""
    shown = Shown(family, files, repo_id)
    extra = "[adapters]" if family.backend == "adapters" else ""

    yield f'## Use\n\n```bash\npip install "{NAME}{extra}"\n```'
    yield "Only the files of the languages that are asked for are downloaded:"
    yield _code(
        [*_own_backend(family), "from hf_meta_adapters import LanguageAdapterModel"],
        [
            f'model = LanguageAdapterModel.from_pretrained("{repo_id}", languages=["{shown.key}"])',
        ],
        shown,
        language=f'language="{shown.key}"',
    )

    # Next to a θ that is an adapter, this package is needed: PEFT does not stack the two.
    plain = list(_plain(shown))
    if plain and is_in_transformers(family.base_class):
        yield from plain


def _plain(shown: Shown) -> Iterator[str]:
    """Loading by the libraries that the files are in the format of."""
    family = shown.family
    if family.backend == "none" and not family.theta_is_adapter:
        yield "Without the package:"
        yield _code([], [_base(shown, "model")], shown)
    elif family.backend == "none":
        yield from _with_peft(shown, SHARED_ADAPTER)
    elif family.backend == "adapters":
        yield from _with_adapters(shown)
    elif family.backend == "peft" and not family.theta_is_adapter:
        yield from _with_peft(shown, family.adapters(family.languages)[0])


def _with_peft(shown: Shown, adapter: str) -> Iterator[str]:
    own = shown.files.method in _OWN_METHODS
    imports = ["from peft import PeftModel"]
    if own:
        imports.append("import hf_meta_adapters  # registers the method of the adapters")

    yield (
        "With plain `peft`, to which this package adds the method:"
        if own
        else ("Without the package:")
    )
    yield _code(
        imports,
        [
            _base(shown, "base"),
            *_new_tokens(shown),
            f'model = PeftModel.from_pretrained(base, "{shown.repo_id}", subfolder="{adapter}")',
        ],
        shown,
    )


def _new_tokens(shown: Shown) -> Iterator[str]:
    """What makes room in a base for tokens whose values are in an adapter."""
    if shown.files.tokens:
        yield f"base.resize_token_embeddings({shown.files.tokens}, mean_resizing=False)"


def _with_adapters(shown: Shown) -> Iterator[str]:
    adapter = shown.family.adapters(shown.family.languages)[0]

    yield "Without the package:"
    yield _code(
        ["import adapters", "from huggingface_hub import snapshot_download"],
        [
            _base(shown, "model"),
            "adapters.init(model)",
            f'folder = snapshot_download("{shown.repo_id}", allow_patterns="{adapter}/*")',
            f'name = model.load_adapter(f"{{folder}}/{adapter}", use_safetensors=True)',
            "model.set_active_adapters(name)",
        ],
        shown,
    )


def _code(imports: Sequence[str], lines: Sequence[str], shown: Shown, language: str = "") -> str:
    """A block that runs as it stands: imports, loading, inputs, and a pass in a language."""
    family = shown.family
    names = [] if language else [family.base_class]
    inputs: list[str] = []
    is_text = reads_text(family.base_class)

    if is_text and shown.tokenizer:
        names.append("AutoTokenizer")
        inputs = [
            f'tokenizer = AutoTokenizer.from_pretrained("{cell(shown.tokenizer)}")',
            'inputs = tokenizer("A text", return_tensors="pt")',
        ]
    elif is_text:
        imports = ["import torch", *imports]
        inputs = ['inputs = {"input_ids": torch.tensor([[1, 2, 3]])}  # ids of tokens']

    call = ", ".join([*([language] if language else []), "**inputs"])
    if is_text and shown.writes_text:
        inputs.append(f"texts = model.generate({call}, max_new_tokens=20)")
    elif is_text:
        inputs.append(f"outputs = model({call})")

    if names:
        imports = [*imports, f"from transformers import {', '.join(sorted(names))}"]
    body = "\n".join([*lines, *([""] if inputs else []), *inputs])
    head = "\n".join(_in_order(imports))
    return f"```python\n{head}\n\n{body}\n```"


def _in_order(imports: Sequence[str]) -> list[str]:
    """Imports as a formatter leaves them: whole modules first."""
    return sorted(imports, key=lambda line: (line.startswith("from"), line.split()[1]))


def _own_backend(family: Family) -> list[str]:
    """What has to be imported for a backend that neither this package nor a library has."""
    if family.backend in _BACKENDS:
        return []
    return [f"import ...  # the module that registers the backend {cell(family.backend)!r}"]


def _base(shown: Shown, name: str) -> str:
    family = shown.family
    source = f'"{cell(family.base_model) or shown.repo_id}"'
    if family.base_model and family.base_revision:
        source += f', revision="{cell(family.base_revision)}"'

    return f"{name} = {family.base_class}.from_pretrained({source})"
