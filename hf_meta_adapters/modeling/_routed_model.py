"""A model whose forward passes run in a language."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends.abilities import KeepsContext, RoutesRows
from hf_meta_adapters.backends.base import Backend
from hf_meta_adapters.backends.recomputation import Anew
from hf_meta_adapters.backends.rows import (
    put_texts_together,
    put_together,
    rows_by_language,
    take_rows,
)
from hf_meta_adapters.errors import ConfigurationError, LanguageError, check_known_language

if TYPE_CHECKING:
    from typing_extensions import Self

_OTHERWISE = {
    "set_adapter": "`set_language`, which keeps every language trainable",
    "add_adapter": "`add_language`",
    "load_adapter": "`load_language`",
    "delete_adapter": (
        "`LanguageAdapterModel.from_pretrained(..., languages=[...])` with those to keep"
    ),
    "disable_adapter": "the saved folder as a plain model, by `AutoModel….from_pretrained`",
    "set_active_adapters": "`set_language`",
    "train_adapter": "`train_only`, or nothing: all languages are trained from the start",
}
"""Methods of the model inside that would do half of what they say, and what to write."""


class RoutedModel(nn.Module):
    """What of `LanguageAdapterModel` concerns the language of a forward pass, and of its recomputation.

    Args:
        backend: What puts the parameters of a language into the model.
        one_for_all: The name of the adapter that all languages share; `None` if each has its own.
    """

    def __init__(self, backend: Backend, one_for_all: str | None) -> None:
        super().__init__()
        self.backend = backend
        self.model: Any = backend.module
        self.training = backend.base.training
        self._one_for_all = one_for_all
        self._languages: list[Language] = []
        self._language: Language | None = None
        self._rows: Sequence[Language] | None = (
            None  # of the pass that runs, if they are in several languages
        )
        if any(getattr(part, "gradient_checkpointing", False) for part in backend.base.modules()):
            self.gradient_checkpointing_enable()

    @property
    def base_model(self) -> nn.Module:
        """The transformers model, with the adapters in it."""
        return self.backend.base

    @property
    def languages(self) -> tuple[Language, ...]:
        """The keys of the languages, in the order in which they were added."""
        return tuple(self._languages)

    @property
    def language(self) -> Language | None:
        """The language in which a forward pass runs that names none."""
        return self._language

    def forward(
        self,
        language: Language | list[Language] | tuple[Language, ...] | None = None,
        **inputs: Any,
    ) -> Any:
        """Run the model in a language, or each row of the batch in one of its own.

        Rows in several languages go through one pass where the method can (bottleneck adapters and
        LoRA, see `routes_rows`). Otherwise the rows of each language make a pass of their own, in
        evaluation only and for outputs that have one entry for each row: logits and hidden states,
        but no loss and no cache of keys and values.

        Args:
            language: The key, or a list with one key for each row; default the language of
                `set_language` or `use_language`.
            **inputs: The inputs of the base model.

        Returns:
            What the base model returns.

        Raises:
            LanguageError: If a language is unknown, or none was given or set.
            ConfigurationError: If rows in several languages cannot run, or are not as many as the
                keys.
        """
        if isinstance(language, (list, tuple)):
            return self._forward_rows(
                [check_known_language(key, self._languages) for key in language], inputs
            )
        with self._running_in(language):
            return self.model(**inputs)

    def generate(
        self,
        *args: Any,
        language: Language | list[Language] | tuple[Language, ...] | None = None,
        **inputs: Any,
    ) -> Any:
        """Generate text in a language, or each row of the batch in one of its own.

        Args:
            *args: As for the base model's `generate`.
            language: As for `forward`. With a list, the rows of each language are generated
                together, and shorter texts are filled up with the padding token.
            **inputs: As for the base model's `generate`.

        Returns:
            What the base model's `generate` returns.

        Raises:
            LanguageError: If a language is unknown, or none was given or set.
            ConfigurationError: If rows are not as many as the keys, or more than texts is asked
                for.
        """
        if isinstance(language, (list, tuple)):
            keys = [check_known_language(key, self._languages) for key in language]
            return self._generate_rows(keys, args, inputs)
        with self._running_in(language):
            return self.model.generate(*args, **inputs)

    @property
    def routes_rows(self) -> bool:
        """Whether rows in several languages share a forward pass, in training, too."""
        return not self._has_own or self._routing(self.languages) is not None

    def set_language(self, language: Language) -> None:
        """Make `language` the one in which forward passes run.

        Args:
            language: The key.

        Raises:
            LanguageError: If the model does not have it.
        """
        self._language = check_known_language(language, self._languages)
        self.backend.activate(self._one_for_all or language)

    @contextmanager
    def use_language(self, language: Language) -> Iterator[Self]:
        """A context in which forward passes run in `language`; the language before is set again on leaving."""
        before = self._language
        self.set_language(language)
        try:
            yield self
        finally:
            self._language = before
            if before is not None:
                self.set_language(before)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Any = None, **options: Any
    ) -> None:
        """Recompute activations in the backward pass, each in the language in which it was computed.

        Args:
            gradient_checkpointing_kwargs: Arguments of `torch.utils.checkpoint.checkpoint`, which
                cannot be reentrant.
            **options: Further arguments of the base model's method.
        """
        given = {"use_reentrant": False, **(gradient_checkpointing_kwargs or {})}
        if given["use_reentrant"]:
            raise ConfigurationError(
                "Gradient checkpointing must not be reentrant, which would recompute in the"
                f" language of the last forward pass. Found {given}. Write"
                " `gradient_checkpointing_kwargs={'use_reentrant': False}`."
            )
        base: Any = self.base_model
        enable = (
            getattr(base, "activation_checkpointing_enable", None)
            or base.gradient_checkpointing_enable
        )
        if isinstance(self.backend, KeepsContext):
            enable = self.backend.enable_checkpointing
        enable({**given, "context_fn": self._recomputation}, **options)

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Any = None, **options: Any
    ) -> None:
        """The name of `gradient_checkpointing_enable` in newer versions of transformers."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, **options)

    def __getattr__(self, name: str) -> Any:
        """Look further in the base model."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model" or name.startswith("__"):
                raise
        if name in _OTHERWISE:
            raise AttributeError(
                f"A model with languages has no `{name}`. Write {_OTHERWISE[name]}."
            )
        return getattr(self.model, name)

    def _forward_rows(self, keys: list[Language], inputs: dict[str, Any]) -> Any:
        groups = rows_by_language(keys)
        rows = _row_count(self.base_model, inputs)
        _check_count(len(keys), rows)
        if not self._has_own or len(groups) == 1:
            return self.forward(keys[0], **inputs)
        routing = self._routing(keys)
        if routing is not None:
            self._rows = keys
            try:
                with routing:
                    return self.model(**inputs)
            except ConfigurationError:
                raise
            except ValueError as error:  # PEFT, of a layer that gets something else than the rows
                if self.training:
                    raise _no_common_pass(
                        groups, f", of which a layer of PEFT says: {error}"
                    ) from error
            finally:
                self._rows = None
        if self.training:
            raise _no_common_pass(groups, ".")
        if "use_cache" in inspect.signature(self.base_model.forward).parameters:
            inputs = {"use_cache": False, **inputs}
        parts = [self.forward(key, **take_rows(inputs, own, rows)) for key, own in groups.items()]
        return put_together(parts, list(groups.values()))

    @property
    def _has_own(self) -> bool:
        """Whether languages differ in anything."""
        return self._one_for_all is None and self.backend.name != "none"

    def _routing(self, keys: Sequence[Language]) -> AbstractContextManager[Any] | None:
        return self.backend.routing(keys) if isinstance(self.backend, RoutesRows) else None

    def _generate_rows(
        self, keys: list[Language], args: tuple[Any, ...], inputs: dict[str, Any]
    ) -> Tensor:
        groups, count = rows_by_language(keys), len(keys)
        _check_count(count, _row_count(self.base_model, {**dict(enumerate(args)), **inputs}))
        parts = []
        for key, rows in groups.items():
            with self._running_in(key):
                part = self.model.generate(
                    *take_rows(args, rows, count), **take_rows(inputs, rows, count)
                )
            if not isinstance(part, Tensor):
                raise ConfigurationError(
                    "Texts in several languages are generated as one tensor. Found a"
                    f" `{type(part).__name__}`. Leave `return_dict_in_generate` out, or generate"
                    " one language at a time."
                )
            parts.append(part)
        settings: Any = self.base_model.generation_config
        padding = inputs.get("pad_token_id", settings.pad_token_id)
        return put_texts_together(
            parts, list(groups.values()), settings.eos_token_id if padding is None else padding
        )

    def _running_in(self, language: Language | None) -> AbstractContextManager[Any]:
        if language is None and self._language is None:
            if len(self._languages) > 1 and self._has_own:
                raise LanguageError(
                    f"A forward pass must run in a language of this model: {list(self._languages)}."
                    " Found none. Write "
                    f'`model(language="{self._languages[0]}", ...)`, `model.set_language(...)` or '
                    "`with model.use_language(...):`."
                )
            language = next(iter(self._languages), None)
        return nullcontext() if language is None else self.use_language(language)

    def _recomputation(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """The contexts of a checkpointed part: of the forward pass, and of its repetition in the backward pass."""
        language, rows = self._language, self._rows
        if rows is not None:
            return nullcontext(), Anew(lambda: self._routing(rows) or nullcontext())
        return nullcontext(), (
            nullcontext() if language is None else Anew(lambda: self.use_language(language))
        )


def _no_common_pass(languages: Iterable[Language], reason: str) -> ConfigurationError:
    return ConfigurationError(
        "Rows of several languages can share a batch in training only where the method runs them"
        f" in one pass: bottleneck adapters, LoRA. Found {list(languages)} in one batch{reason}"
        " Write `model.eval()`, or train with batches of one language (`languages_per_pass=1`)."
    )


def _check_count(keys: int, rows: int) -> None:
    if rows != keys:
        raise ConfigurationError(
            "`language` must be one key, or a list with one for each row of the batch. Found"
            f" {keys} for {rows} rows. Write as many keys as rows."
        )


def _row_count(model: Any, inputs: Mapping[Any, Any]) -> int:
    """The rows of a batch: the length of the main input, or of the first tensor that there is."""
    main = inputs.get(getattr(model, "main_input_name", "input_ids"))
    tensors = [
        value for value in (main, *inputs.values()) if isinstance(value, Tensor) and value.dim() > 0
    ]
    return len(tensors[0]) if tensors else 0
