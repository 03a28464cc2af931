"""In which language the forward passes of a model run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends import Backend
from hf_meta_adapters.backends.abilities import RemovesLanguages, RoutesRows
from hf_meta_adapters.backends.recomputation import Anew, Contexts
from hf_meta_adapters.errors import ConfigurationError, LanguageError, check_known_language


class Router:
    """Activates the adapter of a language for forward passes, and again for their recomputation.

    Args:
        backend: The backend, which holds the model.
        shared_adapter: The name of the adapter that all languages share; `None` if each has its
            own.

    Attributes:
        languages: The keys of the languages, in the order in which they were added.
        language: The language in which a forward pass runs that names none; `None` if none is set.
    """

    def __init__(self, backend: Backend, shared_adapter: str | None) -> None:
        self.backend = backend
        self.shared_adapter = shared_adapter
        self.languages: list[Language] = []
        self.language: Language | None = None
        # the language of each row, during a forward pass whose rows are in several
        self._languages_of_rows: Sequence[Language] | None = None

    @property
    def tells_languages_apart(self) -> bool:
        """Whether languages have parameters of their own."""
        return self.shared_adapter is None and self.backend.name != "none"

    @property
    def routes_rows(self) -> bool:
        """Whether rows in several languages share a forward pass, also in training."""
        return not self.tells_languages_apart or self.routing(self.languages) is not None

    def adapter_of(self, language: Language) -> str:
        """The name under which the backend keeps the parameters of a language."""
        return self.shared_adapter or language

    def set_language(self, language: Language) -> None:
        """Make `language` the one in which forward passes run.

        Raises:
            LanguageError: If the model does not have it.
        """
        self.language = check_known_language(language, self.languages)
        self.backend.activate(self.adapter_of(language))

    def remove(self, language: Language) -> None:
        """Take a language out of the model, with the adapter that it has for itself.

        Raises:
            LanguageError: If the model does not have it, or has no other.
            ConfigurationError: If the backend cannot take adapters out.
        """
        key = check_known_language(language, self.languages)
        others = [other for other in self.languages if other != key]
        if not others:
            raise LanguageError(
                f"A model must keep at least one language. Found that {key!r} is the only one."
                " Add another one first, or use `merge_language` for a plain model."
            )

        if self.tells_languages_apart:
            if not isinstance(self.backend, RemovesLanguages):
                raise ConfigurationError(
                    "A language can be removed if the backend can take adapters out of a model."
                    f" Found the backend {self.backend.name!r}, which is no `RemovesLanguages`."
                    " Save the model, and load it without the language:"
                    f" `from_pretrained(folder, languages={others})`."
                )
            self.backend.remove(key, others[0])

        self.languages.remove(key)
        if self.language is not None:
            # never silently in another language: the next pass has to name one
            kept, self.language = self.language, None
            if kept != key:
                self.set_language(kept)

    @contextmanager
    def use_language(self, language: Language) -> Iterator[None]:
        """A context in which forward passes run in `language`, and afterwards in the one before."""
        before = self.language
        self.set_language(language)

        try:
            yield
        finally:
            self.language = before
            # without a language before, the adapter stays active; no pass runs without naming one
            if before is not None:
                self.set_language(before)

    def running_in(self, language: Language | None) -> AbstractContextManager[None]:
        """The context of a forward pass in a language, or in the one that is set.

        Raises:
            LanguageError: If the language is unknown, or none is named or set although it matters.
        """
        if language is not None:
            return self.use_language(language)

        if self.language is not None:
            return nullcontext()  # its adapter is active already

        if self.tells_languages_apart and len(self.languages) > 1:
            raise LanguageError(
                f"A forward pass must run in a language of this model: {self.languages}. Found"
                f' none. Call `model(language="{self.languages[0]}", ...)` or'
                " `model.set_language(...)`, or use `with model.use_language(...):`."
            )

        # any language will do: the model has only one, or all are the same
        if not self.languages:
            return nullcontext()
        return self.use_language(self.languages[0])

    def routing(self, languages: Sequence[Language]) -> AbstractContextManager[object] | None:
        """A context in which each row runs in its language; `None` if the method cannot do that."""
        if not isinstance(self.backend, RoutesRows):
            return None

        return self.backend.routing(languages)

    @contextmanager
    def running_rows_in(
        self, languages: Sequence[Language], routing: AbstractContextManager[object]
    ) -> Iterator[None]:
        """The context of one forward pass with rows in several languages.

        Args:
            languages: The language of each row.
            routing: What `routing` returned for them.
        """
        self._languages_of_rows = languages  # what `checkpoint_contexts` reads during the pass
        try:
            with routing:
                yield
        finally:
            self._languages_of_rows = None

    def checkpoint_contexts(self) -> Contexts:
        """The `context_fn` of `torch.utils.checkpoint.checkpoint`.

        The forward pass of a checkpointed part needs no context, because it runs in one already.
        Its recomputation, in the backward pass, needs the same one, whatever ran in between.
        """
        # now, in the forward pass: both will have changed when the backward pass begins
        language, languages_of_rows = self.language, self._languages_of_rows

        if languages_of_rows is not None:

            def route() -> AbstractContextManager[object]:
                return self.routing(languages_of_rows) or nullcontext()

            return nullcontext(), Anew(route)

        if language is None:
            return nullcontext(), nullcontext()
        return nullcontext(), Anew(lambda: self.use_language(language))
