"""A model with languages that can be saved, published, and read again in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError, check_known_language, check_languages
from hf_meta_adapters.hub.base_model import body_name
from hf_meta_adapters.hub.client import Access
from hf_meta_adapters.hub.loading import load_weights
from hf_meta_adapters.hub.manifest import Family
from hf_meta_adapters.hub.push import Push, push_family
from hf_meta_adapters.hub.saving import save_family
from hf_meta_adapters.modeling._owned import OwnedModel


class SavedModel(OwnedModel):
    """What of `LanguageAdapterModel` concerns files and the Hub."""

    def save_pretrained(
        self, save_directory: str | Path, *, max_shard_size: int | str | None = None, **details: Any
    ) -> None:
        """Write the shared weights as a transformers checkpoint and each language as an adapter of its own library.

        Where θ is an adapter, it is written to `<save_directory>/shared/`, and a base that was
        loaded from a folder or the Hub is named, not copied: it must still be as it was loaded.

        Args:
            save_directory: The folder; `<save_directory>/<language>/` holds the adapters.
            max_shard_size: The largest file of shared weights, such as "2GB"; default that of
                transformers.
            **details: What should be recorded in `language_adapters.json` and on the model card,
                see `push_to_hub`.
        """
        self._save(Path(save_directory), self.languages, details, max_shard_size)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        languages: Sequence[Language] | None = None,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        token: str | bool | None = None,
        processing_class: Any = None,
        max_shard_size: int | str | None = None,
        **details: Any,
    ) -> Any:
        """Publish the family on the Hub by one commit, or add languages to a family that is there.

        Args:
            repo_id: The repository, such as `"me/family"`; made if it is missing.
            languages: Publish only these. Where the repository holds a family, they are added to it
                and nothing else of it is touched; it must have the same base, θ and kind of
                adapter. Default the whole family.
            private: Whether a new repository is private; default as the account has it.
            revision: The branch; made if it is missing.
            commit_message: The message of the commit.
            create_pr: Offer the change to the owner of the repository, instead of making it.
            token: The token; default that of `hf auth login`.
            processing_class: A tokenizer to publish with the whole family.
            max_shard_size: As for `save_pretrained`.
            **details: What was measured, for the manifest and the model card, as JSON or results of
                this package: `scores` (`LanguageScores`, or several), `baselines` (name →
                `LanguageScores`), `gradient_conflict` (a `ConflictMatrix`), `data` (language →
                `{"train": rows, "meta": rows}`), `training` (settings), `train_runtime` (seconds),
                `co2_eq_emissions` (grams), `base_model` (a name), or anything else.

        Returns:
            The `CommitInfo` of huggingface_hub.

        Raises:
            LanguageError: If the model does not have a language.
            HubError: If the repository cannot be written, has moved in the meantime, or holds
                another family.
        """
        chosen = None if languages is None else check_languages(languages)
        for key in chosen or ():
            check_known_language(key, self.languages)

        def save(folder: Path) -> None:
            self._save(folder, chosen or self.languages, details, max_shard_size)
            if processing_class is not None:
                processing_class.save_pretrained(str(folder))

        access = Access(revision, token)
        return push_family(
            Push(repo_id, chosen, private, revision, commit_message, create_pr, access), save
        )

    def _save(
        self,
        folder: Path,
        languages: tuple[Language, ...],
        details: dict[str, Any],
        max_shard_size: int | str | None,
    ) -> None:
        options = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
        family = replace(self._family(details), languages=languages)
        save_family(
            folder, family, self.backend, self.base_state_dict(), self.shared_part, **options
        )

    def load_weights(self, path: str | Path) -> None:
        """Read θ and every φ_l of this very model from what `save_pretrained` wrote, in place.

        Args:
            path: The folder.

        Raises:
            HubError: If the files are of another model, or damaged.
        """
        load_weights(
            Path(path), self._family({}), self.backend, self.base_state_dict(), self.shared_part
        )

    def load_language(self, language: Language, path: str | Path) -> None:
        """Set φ_l to a saved adapter of the same configuration, as a place to start from or to go on.

        Args:
            language: The key; the model gets the language if it does not have it.
            path: The folder of one adapter, in safetensors format: `<language>/` of a saved model,
                or what PEFT, or `adapters` with `use_safetensors=True`, wrote under any name.

        Raises:
            HubError: If files are missing, pickled or damaged, or the adapter is of another
                configuration or model.
            ConfigurationError: If the languages have no adapters of their own.
        """
        if self.share_adapter or self.backend.name == "none":
            raise ConfigurationError(
                "An adapter can be loaded for one language where each has its own. Found"
                f" `share_adapter={self.share_adapter}` and the backend {self.backend.name!r}."
                " Write `get_language_model(model, config, languages)` with a `config` and without"
                " `share_adapter`."
            )
        if language not in self._languages:
            self.add_language(language)
        self.backend.load(language, Path(path))

    def _family(self, details: dict[str, Any]) -> Family:
        return Family(
            languages=self.languages,
            backend=self.backend.name,
            shared=self.shared,
            one_adapter_for_all=self.share_adapter,
            theta_is_adapter=self.shared_part is not None,
            base_model=self._base_name[0],
            base_revision=self._base_name[1],
            base_class=type(self.base_model).__name__,
            body=body_name(self.base_model),
            details=details,
        )
