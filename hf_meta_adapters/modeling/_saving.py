"""A model with languages, written to a folder or published on the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from huggingface_hub import CommitInfo
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends import Backend
from hf_meta_adapters.backends.abilities import SharedPart
from hf_meta_adapters.errors import check_known_language, check_languages
from hf_meta_adapters.hub.base_model import body_name
from hf_meta_adapters.hub.manifest import Family
from hf_meta_adapters.hub.others import Others
from hf_meta_adapters.hub.push import Push, push_family
from hf_meta_adapters.hub.record import MERGED, check_details
from hf_meta_adapters.hub.saving import save_family
from hf_meta_adapters.hub.tokenizer import Tokenizer, save_tokenizer


@dataclass(frozen=True)
class Writer:
    """Writes the present state of a model with languages.

    Args:
        family: The manifest, with all languages of the model.
        backend: The backend, which holds the model.
        state: The tensors of the base model under the names of its own checkpoint.
        shared_part: θ, if it is an adapter.
        max_shard_size: The largest file of shared weights; `None` for the default of transformers.
        others: The languages that the model lacks, and what happens to them.
    """

    family: Family
    backend: Backend
    state: Mapping[str, Tensor]
    shared_part: SharedPart | None
    max_shard_size: int | str | None
    others: Others = field(default_factory=Others)

    def write(self, folder: Path, languages: Sequence[Language] | None = None) -> None:
        """Write the shared weights, the adapters of the languages, the manifest and the card.

        Args:
            folder: The folder; created if it is missing.
            languages: The languages; default all.
        """
        family = self.family
        if languages is not None:
            family = replace(family, languages=tuple(languages))

        save_family(
            folder,
            family,
            self.backend,
            self.state,
            self.shared_part,
            others=self.others,
            max_shard_size=self.max_shard_size,
        )


def publish(
    writer: Writer, destination: Push, processing_class: Tokenizer | None = None
) -> CommitInfo:
    """Publish a model with languages by one commit.

    Args:
        writer: What writes the model.
        destination: Where to publish, and which languages.
        processing_class: What to publish with the model.
    """

    def save(folder: Path) -> None:
        writer.write(folder, destination.languages)
        if processing_class is not None:
            # into the same folder, hence the same commit
            save_tokenizer(processing_class, folder)

    return push_family(destination, save)


class HasFamily(Protocol):
    """What the manifest says of a model with languages."""

    backend: Backend
    shared: str
    share_adapter: bool
    shared_part: SharedPart | None
    merged_from: dict[str, object]

    @property
    def languages(self) -> tuple[Language, ...]:
        """The keys of the languages."""


def family_of(model: HasFamily, base: tuple[str, str], details: Mapping[str, object]) -> Family:
    """The manifest of a model, without the files.

    Args:
        model: The model.
        base: The name and the commit of the base, "" and "" if it must be saved.
        details: What else is recorded.

    Raises:
        ConfigurationError: If nothing reads one of the details.
    """
    check_details(details)
    if model.merged_from:
        details = {**details, MERGED: model.merged_from}

    name, revision = base
    return Family(
        languages=model.languages,
        backend=model.backend.name,
        shared=model.shared,
        one_adapter_for_all=model.share_adapter,
        theta_is_adapter=model.shared_part is not None,
        base_model=name,
        base_revision=revision,
        base_class=type(model.backend.base).__name__,
        body=body_name(model.backend.base),
        details=details,
    )


def checked_choice(
    languages: Sequence[Language] | None, known: Sequence[Language]
) -> tuple[Language, ...] | None:
    """Languages of a model that are to be published, or `None` for the whole family.

    Raises:
        LanguageError: If a key is malformed or comes twice, or the model does not have it.
    """
    if languages is None:
        return None

    keys = check_languages(languages)
    for key in keys:
        check_known_language(key, known)
    return keys
