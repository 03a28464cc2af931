"""A transformers model with parameters of its own for each language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitInfo
from torch import Tensor, nn

from hf_meta_adapters._typing import Language, ModelClass, RowLanguages
from hf_meta_adapters.backends import Backend
from hf_meta_adapters.backends.abilities import ReplacesModules
from hf_meta_adapters.backends.recomputation import is_checkpointed
from hf_meta_adapters.errors import check_known_language
from hf_meta_adapters.hub.client import Access
from hf_meta_adapters.hub.loading import load_weights
from hf_meta_adapters.hub.manifest import SHARED_ADAPTER, Family
from hf_meta_adapters.hub.others import OtherLanguages, Others
from hf_meta_adapters.hub.push import Push
from hf_meta_adapters.hub.steady import reads_one_save
from hf_meta_adapters.hub.tokenizer import Tokenizer
from hf_meta_adapters.modeling._base_language import with_base_language
from hf_meta_adapters.modeling._checkpointing import enable_checkpointing
from hf_meta_adapters.modeling._detected import with_detection
from hf_meta_adapters.modeling._exporting import export
from hf_meta_adapters.modeling._initialisation import check_mixture, check_new_language, mix_
from hf_meta_adapters.modeling._inner_model import inner_attribute
from hf_meta_adapters.modeling._loading import (
    Choices,
    build_saved,
    check_own_adapters,
    load_adapter,
    load_adapters,
    open_saved,
)
from hf_meta_adapters.modeling._merging import merge
from hf_meta_adapters.modeling._ownership import named
from hf_meta_adapters.modeling._router import Router
from hf_meta_adapters.modeling._rows import by_name, forward_rows, generate_rows
from hf_meta_adapters.modeling._saving import Writer, checked_choice, family_of, publish
from hf_meta_adapters.modeling._theta import claim_theta

if TYPE_CHECKING:
    from transformers.utils import ModelOutput
    from typing_extensions import Self


class LanguageAdapterModel(nn.Module):
    """A model whose forward pass runs in a language: f(x; θ, φ_l).

    Made by `get_language_model` or `LanguageAdapterModel.from_pretrained`. The wrapper owns
    `requires_grad`: θ and every φ_l are trainable from the start, and switching languages never
    changes that. Everything else that the base model and PEFT offer (`config`, `device`,
    `get_base_model()`, …) is reached through the wrapper.

    Args:
        backend: What puts the parameters of a language into the model.
        shared: What θ is, see `get_language_model`.
        share_adapter: Whether all languages share one adapter.

    Attributes:
        backend: The backend.
        model: What a forward pass calls: the base model, or the wrapper of an adapter library.
        shared: `"all"`, `"none"` or the regular expression that says what θ is.
        shared_part: θ, if it is an adapter itself.
        share_adapter: Whether all languages share one adapter.
        merged_from: What `merge_families` made the model from; empty for any other.

    Example:
        >>> import tempfile, torch
        >>> from peft import LoraConfig
        >>> from transformers import BertConfig, BertModel
        >>> from hf_meta_adapters import LanguageAdapterModel, get_language_model
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        ...              intermediate_size=16, vocab_size=9)
        >>> base = BertModel(BertConfig(**sizes))
        >>> model = get_language_model(base, LoraConfig(target_modules=["query"]), ["en", "sw"])
        >>> text = torch.tensor([[1, 2, 3]])
        >>> with model.use_language("sw"):
        ...     states = model(input_ids=text).last_hidden_state
        >>> states.shape
        torch.Size([1, 3, 8])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     loaded = LanguageAdapterModel.from_pretrained(folder, languages=["sw"])
        >>> loaded.languages
        ('sw',)
    """

    def __init__(
        self, backend: Backend, *, shared: object = "all", share_adapter: bool = False
    ) -> None:
        super().__init__()
        self.backend = backend
        # users, logs and checkpoints know every parameter by a name that begins with `model.`
        self.model: nn.Module = backend.module
        self.training = backend.base.training
        # without adapters there is none to share, and no folder for it
        self.share_adapter = share_adapter and backend.name != "none"

        self._router = Router(backend, SHARED_ADAPTER if self.share_adapter else None)
        if is_checkpointed(backend.base):
            # switched on before, it would recompute in whichever language ran last
            self.gradient_checkpointing_enable()

        theta = claim_theta(backend, shared, self.share_adapter)
        self.shared = theta.choice
        self.shared_part = theta.part
        self._reference = theta.reference
        # names in this module instead of the base: they now begin with `model.`
        self._ownership = theta.held.after(self)

        # what a saved family has, or had, and this model lacks
        self._others, self.merged_from = Others(), dict[str, object]()

        # what `train_only` excluded; languages that are added later are trained
        self._frozen_languages: set[Language] = set()
        self._trains_shared = True

    @property
    def base_model(self) -> nn.Module:
        """The transformers model, with the adapters in it."""
        return self.backend.base

    @property
    def languages(self) -> tuple[Language, ...]:
        """The keys of the languages, in the order in which they were added."""
        return tuple(self._router.languages)

    @property
    def language(self) -> Language | None:
        """The language in which a forward pass runs that names none."""
        return self._router.language

    @property
    def routes_rows(self) -> bool:
        """Whether rows in several languages share a forward pass, also in training."""
        return self._router.routes_rows

    def forward(
        self, *args: object, language: RowLanguages | None = None, **inputs: object
    ) -> ModelOutput:
        """Run the model in a language, or each row of the batch in one of its own.

        Rows in several languages go through one pass where the method can do that (bottleneck
        adapters and LoRA, see `routes_rows`). Otherwise the rows of each language make a pass of
        their own, in evaluation only and for outputs that have one entry for each row: logits and
        hidden states, but neither a loss nor a cache of keys and values.

        Args:
            *args: Inputs of the base model, in the order of its own `forward`; a language, or a
                list of them, may stand before.
            language: The key, or a list with one key for each row; default the language of
                `set_language` or `use_language`.
            **inputs: The inputs of the base model.

        Returns:
            What the base model returns.

        Raises:
            LanguageError: If a language is unknown, or none is named or set.
            ConfigurationError: If rows in several languages cannot run, or are not as many as the
                keys.
        """
        language, inputs = by_name(self.base_model, args, language, inputs)
        if isinstance(language, (list, tuple)):
            return forward_rows(self._router, self.model, language, inputs)

        with self._router.running_in(language):
            return self.model(**inputs)

    def generate(
        self, *args: object, language: RowLanguages | None = None, **inputs: object
    ) -> Tensor | ModelOutput:
        """Generate text in a language, or each row of the batch in one of its own.

        Args:
            *args: As for the base model's `generate`.
            language: As for `forward`. With a list, the rows of each language are generated
                together, and shorter texts are filled up with the padding token. Where the base
                model has languages of its own (Whisper), the key is also the one that it begins the
                text with. `"auto"` detects the language of each row.
            **inputs: As for the base model's `generate`. There, `base_language` is a language of
                the base in place of the key, or `None` for the default of the base. With `"auto"`,
                `texts` has the text of each row, and `detection` is a `LanguageDetection` of
                `hf_meta_adapters.data.detection`, which may have a detector of your own.

        Returns:
            What the base model's `generate` returns.

        Raises:
            LanguageError: If a language is unknown, also to a base that has its own, or none is
                named or set.
            ConfigurationError: If rows are not as many as the keys, or more than texts is asked
                for.
        """
        language, inputs = with_detection(language, self.languages, inputs)
        if isinstance(language, (list, tuple)):
            return generate_rows(self._router, self.model, language, args, inputs)

        with self._router.running_in(language):
            model: Any = self.model  # `nn.Module` promises no `generate`
            return model.generate(*args, **with_base_language(self._router, language, inputs))

    def set_language(self, language: Language) -> None:
        """Make `language` the one in which forward passes run.

        Args:
            language: The key.

        Raises:
            LanguageError: If the model does not have it.
        """
        self._router.set_language(language)

    @contextmanager
    def use_language(self, language: Language) -> Iterator[Self]:
        """A context in which forward passes run in `language`, and afterwards in the one before."""
        with self._router.use_language(language):
            yield self

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, object] | None = None, **options: object
    ) -> None:
        """Recompute activations in the backward pass, each in the language of its forward pass.

        Args:
            gradient_checkpointing_kwargs: Arguments of `torch.utils.checkpoint.checkpoint`, which
                cannot be reentrant.
            **options: Further arguments of the base model's method.
        """
        enable_checkpointing(self._router, gradient_checkpointing_kwargs, options)

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Mapping[str, object] | None = None, **options: object
    ) -> None:
        """The name of `gradient_checkpointing_enable` in newer versions of transformers."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, **options)

    def add_language(
        self, language: Language, copy_from: Language | Mapping[Language, float] | None = None
    ) -> None:
        """Give the model a further language; the parameters of all others stay as they are.

        Args:
            language: Its key.
            copy_from: A language whose parameters the new one starts from; or weights of several
                that sum to 1 within 1e-6, such as `{"sw": 0.6, "en": 0.4}`, for a start from their
                mean, φ_new = Σ_l w_l φ_l, parameter by parameter; or `"mean"`, for that of all
                languages alike. `nearest_languages` tells which suit a text. Default a fresh
                adapter.

        Raises:
            LanguageError: If the key is malformed or taken, or a language to copy from is unknown.
            ConfigurationError: If the weights are not positive or do not sum to 1.
        """
        check_new_language(language, self.languages)
        mixture = check_mixture(copy_from, self.languages, self.backend)

        if not self.share_adapter:
            self._create(language, owner=language)
        elif not self.languages:
            # the one adapter comes with the first language, and belongs to θ
            self._create(SHARED_ADAPTER, owner=None)

        self._ownership = self._ownership.with_language(language)
        self._router.languages.append(language)

        if mixture:
            tensors = {key: named(self, names) for key, names in self._ownership.created.items()}
            mix_(tensors[language], [tensors[key] for key in mixture], list(mixture.values()))

        # libraries activate and freeze adapters when they add one
        if not self.share_adapter or len(self.languages) == 1:
            self._require_gradients()
        if self.language is not None:
            self.set_language(self.language)

    def remove_language(self, language: Language) -> None:
        """Take a language out of the model, and out of what is saved or pushed from now on.

        The parameters of all other languages, and θ, stay as they are; without `share_adapter` φ_l
        is deleted. If it was the language of `set_language`, none is set afterwards. An optimizer
        or a Trainer that was made before still has the parameters: make a new one.

        `save_pretrained` and `push_to_hub` then delete the folder of the language from the family
        that they replace.

        Args:
            language: Its key.

        Raises:
            LanguageError: If the model does not have it, or has no other.
            ConfigurationError: If the backend cannot take adapters out.
        """
        self._router.remove(language)
        self._others = self._others.without(language)
        self._ownership = self._ownership.without_language(language)
        self._frozen_languages.discard(language)
        self._require_gradients()

    def train_only(self, *languages: Language, shared: bool = False) -> None:
        """Train φ_l of these languages and nothing else: all other parameters are frozen, also θ.

        `model.train_only("yo")` is what a language needs that is added to a trained model.
        Languages that are added afterwards are trained as well. `model.train_only(*model.languages,
        shared=True)` trains everything again.

        Args:
            *languages: Their keys.
            shared: Whether θ is trained as well.

        Raises:
            LanguageError: If the model does not have one of them.
        """
        trained = {check_known_language(key, self.languages) for key in languages}
        self._frozen_languages = set(self.languages) - trained
        self._trains_shared = shared
        self._require_gradients()

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """θ: the trained parameters that all languages share, by name in `named_parameters()`."""
        if not self._trains_shared:
            return {}

        return named(self, self._ownership.shared)

    def language_parameters(self, language: Language) -> dict[str, nn.Parameter]:
        """φ_l: the trained parameters of one language, by name in `named_parameters()`.

        Args:
            language: The key.

        Raises:
            LanguageError: If the model does not have it.
        """
        key = check_known_language(language, self.languages)
        if key in self._frozen_languages:
            return {}

        return named(self, self._ownership.languages[key])

    def base_state_dict(self) -> dict[str, Tensor]:
        """The tensors of the base model under the names of its own checkpoint, without adapters."""
        state = self.state_dict()
        return {name: state[now] for name, now in self._ownership.original.items()}

    def print_trainable_parameters(self) -> None:
        """Print how many parameters are shared, language-specific and frozen."""
        print(self._ownership.count(self))

    def merge_language(
        self, language: Language, probe: Mapping[str, Tensor] | None = None
    ) -> nn.Module:
        """Compute f(x; θ, φ_l) as a plain transformers model, the adapter merged into its weights.

        Before the model is returned, its outputs are compared with those of this one on a small
        batch. Where merging changes one of two tied embeddings, the plain model has both and its
        configuration says `tie_word_embeddings=False`.

        Args:
            language: The key.
            probe: Inputs of the base model to compare on; by default one row that is made up.

        Returns:
            A copy of the base model, without adapters; this model does not change.

        Raises:
            LanguageError: If the model does not have it.
            ConfigurationError: If the method cannot be merged, such as the bottleneck adapter, or
                the merged model computes something else.
        """
        key = check_known_language(language, self.languages)
        return merge(self, key, self._router.adapter_of(key), probe)

    def export_lora(self, language: Language, path: str | Path) -> None:
        """Write [s_θ B_θ, s_φ B_φ] · [A_θ; A_φ], θ and φ_l as one LoRA, which a server can serve.

        Plain PEFT and servers such as vLLM load it on the base model. Where θ is the whole model,
        the base is the checkpoint in the folder of the family, and the LoRA is that of φ_l.

        Args:
            language: The language.
            path: A folder, new or empty. `adapter_config.json` has one rank r, the largest sum of
                the ranks of θ and φ_l in any layer, and the scale 1.

        Raises:
            LanguageError: If the model does not have the language.
            ConfigurationError: If the folder is not empty, or θ or φ_l is anything but LoRA.
        """
        key = check_known_language(language, self.languages)
        name, _ = self._reference.of_present(self.base_model, self.base_state_dict())
        export(self.backend, self._router.adapter_of(key), Path(path), name)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        max_shard_size: int | str | None = None,
        other_languages: OtherLanguages | None = None,
        **details: object,
    ) -> None:
        """Write a transformers checkpoint, and each language as an adapter of its own library.

        Where θ is an adapter, it is written to `<save_directory>/shared/`, and a base that was
        loaded from a folder or the Hub is named, not copied, unless anything of it has changed.

        A model that lies in the folder is replaced when the new one is complete; whoever loads
        meanwhile gets one of the two. Other files in the folder stay, and so do languages that
        `from_pretrained(..., languages=[...])` did not load, which a log line names: they were
        trained with θ as it is in the folder, so this θ must be the same, bit for bit. Languages
        that `remove_language` took out of this model go.

        Args:
            save_directory: The folder; `<save_directory>/<language>/` holds the adapters.
            max_shard_size: The largest file of shared weights, such as "2GB"; default that of
                transformers.
            other_languages: `"keep"` keeps all languages that the folder has and this model lacks,
                with whatever θ; `"drop"` keeps none. Default as described above; the languages of
                a folder that this model was not loaded from go.
            **details: What should be recorded in `language_adapters.json` and on the model card,
                see `push_to_hub`.

        Raises:
            ConfigurationError: If a keyword is unknown.
            HubError: If languages that were not loaded cannot stay, as θ has changed. If a file in
                the folder, or the folder of a language, is a link: nothing is written through
                links. Or if another process saves into the folder.
        """
        others = self._others.chosen(other_languages)
        self._writer(details, max_shard_size, others).write(Path(save_directory))

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
        processing_class: Tokenizer | None = None,
        max_shard_size: int | str | None = None,
        other_languages: OtherLanguages | None = None,
        **details: object,
    ) -> CommitInfo:
        """Publish the family on the Hub by one commit, or add languages to a published family.

        Args:
            repo_id: The repository, such as `"me/family"`; created if it is missing.
            languages: Publish only these. Where the repository holds a family, they are added to it
                and nothing else of it is touched; it must have the same base, θ and kind of
                adapter. Default the whole family.
            private: Whether a new repository is private; default as the account has it.
            revision: The branch; created if it is missing.
            commit_message: The message of the commit.
            create_pr: Offer the change to the owner of the repository, instead of making it.
            token: The token; default that of `hf auth login`.
            processing_class: A tokenizer to publish with the whole family.
            max_shard_size: As for `save_pretrained`.
            other_languages: As for `save_pretrained`, if the whole family is published. A
                repository never loses a language that this model was not loaded from, unless by
                `"drop"`.
            **details: What was measured, for the manifest and the model card, as JSON or results of
                this package: `scores` (`LanguageScores`, or several), `baselines` (name →
                `LanguageScores`), `gradient_conflict` (a `ConflictMatrix`), `data` (language →
                `{"train": rows, "meta": rows}`), `datasets` (names on the Hub), `training`
                (settings), `train_runtime` (seconds), `co2_eq_emissions` (grams), `base_model` (a
                name), `license` (an identifier of the Hub, such as `"apache-2.0"`; default that of
                the base, where the Hub knows it), and `notes` (anything else).

        Returns:
            The `CommitInfo` of huggingface_hub.

        Raises:
            LanguageError: If the model does not have a language.
            ConfigurationError: If a keyword is unknown.
            HubError: If the repository cannot be written, has moved in the meantime, or holds
                another family, or languages of it cannot stay.
        """
        chosen, access = checked_choice(languages, self.languages), Access(revision, token)
        others = self._others.chosen(other_languages)
        destination = Push(
            repo_id, chosen, private, revision, commit_message, create_pr, access, others
        )
        writer = self._writer(details, max_shard_size, others)
        return publish(writer, destination, processing_class)

    @classmethod
    @reads_one_save
    def from_pretrained(
        cls,
        repo_or_path: str | Path,
        *,
        auto_class: ModelClass | None = None,
        languages: Sequence[Language] | None = None,
        shared: object = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        **model_arguments: object,
    ) -> Self:
        """Load what `save_pretrained` or `push_to_hub` wrote; from the Hub only the files it needs.

        Args:
            repo_or_path: The folder, or a repository on the Hub such as `"me/family"`.
            auto_class: The class that loads the shared weights, such as
                `AutoModelForTokenClassification` to put a new head on the same body; default the
                class that was saved.
            languages: The languages to load; default all.
            shared: What θ is from now on, see `get_language_model`; default as saved. A
                `peft.PeftConfig` adds a fresh adapter to those of the languages. Where θ was saved
                as an adapter, `"none"` keeps and freezes it.
            revision: A branch, a tag or a commit of the repository.
            token: The token for a private or gated repository; default that of `hf auth login`.
            cache_dir: Where downloads are kept; default the cache of the Hub.
            local_files_only: Whether to look in that cache only.
            **model_arguments: Further arguments of the class's `from_pretrained`: `num_labels`,
                `dtype`, `device_map`…

        Returns:
            The model, in evaluation mode, as transformers models are after loading.

        Raises:
            HubError: If files are missing, foreign, unsafe, or not those that were saved, or cannot
                be downloaded.
            LanguageError: If a language is asked for that was not saved.
        """
        access = Access(revision, token, cache_dir, local_files_only)
        choices = Choices(auto_class, languages, shared, model_arguments)
        saved = open_saved(repo_or_path, choices, access)

        model = build_saved(cls, saved)
        model._others, model.merged_from = saved.others, saved.merged_from
        model._reference = saved.reference(model._reference)
        load_adapters(saved, model.backend, model.shared_part)

        if model.shared_part is not None and shared == "none":
            model.train_only(*saved.languages)
        return model.eval()

    @reads_one_save
    def load_weights(self, path: str | Path) -> None:
        """Read θ and every φ_l of this very model from what `save_pretrained` wrote, in place.

        Args:
            path: The folder.

        Raises:
            HubError: If the files are of another model, or not those that were saved.
        """
        state = self.base_state_dict()
        family = self._family({}, state)
        load_weights(Path(path), family, self.backend, state, self.shared_part)

    def load_language(self, language: Language, path: str | Path) -> None:
        """Set φ_l to a saved adapter of the same configuration, to start or to continue from it.

        Args:
            language: The key; the model gets the language if it does not have it.
            path: The folder of one adapter, in safetensors format: `<language>/` of a saved model,
                or what PEFT, or `adapters` with `use_safetensors=True`, wrote under any name.

        Raises:
            HubError: If files are missing, pickled or damaged, or the adapter is of another
                configuration or model.
            ConfigurationError: If the languages have no adapters of their own.
        """
        check_own_adapters(self._router)
        if language not in self.languages:
            self.add_language(language)

        load_adapter(self.backend, language, Path(path))

    def __getattr__(self, name: str) -> Any:
        """Look further in the base model."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            # `model` is absent while a copy is being made, and then nothing can be found in it
            if name == "model" or name.startswith("__"):
                raise

        return inner_attribute(self.model, name)

    def _create(self, adapter: str, owner: Language | None) -> None:
        """Create an adapter that belongs to a language, or to θ if `owner` is `None`."""
        known, held = set(self.modules()), self._ownership.held(self)
        self.backend.add(adapter)
        self.model = self.backend.module  # the first adapter may come with a wrapper

        self._ownership = held.after(self, owner)
        if isinstance(self.backend, ReplacesModules):
            self._ownership = self._ownership.without(self, self.backend.replaced())

        # new modules are in training mode, whatever the model is in
        for part in set(self.modules()) - known:
            part.training = self.base_model.training

    def _require_gradients(self) -> None:
        self._ownership.require_gradients(self, self._frozen_languages, shared=self._trains_shared)

    def _writer(
        self, details: Mapping[str, object], max_shard_size: int | str | None, others: Others
    ) -> Writer:
        state = self.base_state_dict()
        family = self._family(details, state)
        return Writer(family, self.backend, state, self.shared_part, max_shard_size, others)

    def _family(self, details: Mapping[str, object], state: Mapping[str, Tensor]) -> Family:
        return family_of(self, self._reference.of_present(self.base_model, state), details)
