"""Which tensor is whose, and what each was called before adapters were put into the model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, nn

from hf_meta_adapters._typing import Language


@dataclass(frozen=True)
class Ownership:
    """The names of the tensors of a model with languages, by owner.

    A trained parameter that appears while a language is added belongs to that language. Owners are
    found by the identity of tensors, never by parts of names: a language called `te` does not own
    `adapter`.

    Args:
        shared: The names of θ.
        languages: The names of φ_l of each language.
        created: The names of all parameters that came with a language: φ_l, and what its method
            keeps fixed.
        original: The name of each tensor of the base model before any adapter → its name now.
    """

    shared: list[str]
    languages: dict[Language, list[str]]
    created: dict[Language, list[str]]
    original: dict[str, str]

    @classmethod
    def of_base(cls, base: nn.Module, keep: set[str] | None = None) -> Ownership:
        """The ownership in a model without languages.

        Args:
            base: The model.
            keep: Names that θ is limited to; by default θ is all that is trained.
        """
        shared = [name for name, parameter in base.named_parameters() if parameter.requires_grad]
        if keep is not None:
            shared = [name for name in shared if name in keep]

        return cls(shared, {}, {}, {name: name for name in _state_tensors(base)})

    def held(self, module: nn.Module) -> Held:
        """The same by the identity of tensors, to be kept while `module` is being changed."""
        # a tied parameter has one name among the parameters, but several in the state
        parameters, state = dict(module.named_parameters()), _state_tensors(module)

        def identities(names: Iterable[str]) -> list[int]:
            return [id(parameters[name]) for name in names]

        return Held(
            everything=list(parameters.values()),
            shared=identities(self.shared),
            languages={key: identities(names) for key, names in self.languages.items()},
            created={key: identities(names) for key, names in self.created.items()},
            original={name: id(state[now]) for name, now in self.original.items()},
        )

    def with_language(self, language: Language) -> Ownership:
        """The same with a language, which owns nothing unless it does already."""
        languages, created = dict(self.languages), dict(self.created)

        # at the end: `count` lists languages in the order in which they were added
        languages.setdefault(language, [])
        created.setdefault(language, [])
        return replace(self, languages=languages, created=created)

    def without_language(self, language: Language) -> Ownership:
        """The same without a language, whose parameters have been deleted."""
        languages, created = dict(self.languages), dict(self.created)
        del languages[language], created[language]
        return replace(self, languages=languages, created=created)

    def without(self, module: nn.Module, replaced: Sequence[nn.Module]) -> Ownership:
        """The same, with modules left out of θ that are not called anymore.

        A parameter of theirs remains if it is tied to one of a module that is called.

        Args:
            module: The model.
            replaced: The modules that adapters stand in for.
        """
        uncalled: set[nn.Module] = set()
        for part in replaced:
            uncalled.update(part.modules())

        # by identity, not by name: a weight that is tied to a module in use is trained there
        called: set[int] = set()
        for part in module.modules():
            if part not in uncalled:
                called.update(id(parameter) for parameter in part.parameters(recurse=False))

        parameters = dict(module.named_parameters())
        shared = [name for name in self.shared if id(parameters[name]) in called]
        return replace(self, shared=shared)

    def require_gradients(
        self, module: nn.Module, frozen: Collection[Language] = (), *, shared: bool = True
    ) -> None:
        """Make θ and φ trainable, and nothing else.

        Args:
            module: The model.
            frozen: The languages whose φ_l is not trained.
            shared: Whether θ is trained.
        """
        trained: set[str] = set()
        if shared:
            trained.update(self.shared)
        trained.update(*(self.languages[key] for key in self.languages if key not in frozen))

        for name, parameter in module.named_parameters():
            if parameter.is_floating_point():  # torch refuses gradients of integers
                parameter.requires_grad_(name in trained)

    def count(self, module: nn.Module) -> str:
        """How many parameters are shared, language-specific and frozen, in one line."""
        sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}

        def size_of(names: Iterable[str]) -> int:
            return sum(sizes[name] for name in names)

        total, shared = sum(sizes.values()), size_of(self.shared)
        by_language = {key: size_of(names) for key, names in self.languages.items()}
        frozen = total - shared - sum(by_language.values())

        each = ", ".join(f"{key} {size:,}" for key, size in by_language.items())
        return (
            f"shared (θ): {shared:,} || per language (φ): {each} || frozen: {frozen:,} || all:"
            f" {total:,}"
        )


@dataclass(frozen=True)
class Held:
    """An `Ownership` by identity.

    It holds the tensors, so that no new tensor can take the identity of one that was freed.

    Args:
        everything: All parameters of the model.
        shared: The identities of θ.
        languages: The identities of φ_l of each language.
        created: The identities of all parameters that came with a language.
        original: The name of each tensor of the base model before any adapter → its identity.
    """

    everything: list[nn.Parameter]
    shared: list[int]
    languages: dict[Language, list[int]]
    created: dict[Language, list[int]]
    original: dict[str, int]

    def after(self, module: nn.Module, language: Language | None = None) -> Ownership:
        """The ownership by the names that tensors have now.

        Args:
            module: The model, which may have new parameters.
            language: The owner of the new parameters; `None` if those that are trained are θ.
        """
        old = {id(parameter) for parameter in self.everything}
        new = [parameter for parameter in module.parameters() if id(parameter) not in old]
        trained = [id(parameter) for parameter in new if parameter.requires_grad]

        shared, languages, created = self.shared, self.languages, self.created
        if language is None:
            shared = [*shared, *trained]
        else:
            languages = {**languages, language: trained}
            created = {**created, language: [id(parameter) for parameter in new]}

        # A library may wrap modules, so that names change, but must not replace their tensors: the
        # identity of a tensor that is lost is a `KeyError` below.
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        state = {id(tensor): name for name, tensor in _state_tensors(module).items()}
        return Ownership(
            shared=[names[identity] for identity in shared],
            languages=_named(languages, names),
            created=_named(created, names),
            original={name: state[identity] for name, identity in self.original.items()},
        )


def named(module: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters of a module that have these names."""
    return {name: _parameter(module, name) for name in names}


def _parameter(module: nn.Module, name: str) -> nn.Parameter:
    """The parameter of a name of `named_parameters()`, without walking over the whole module.

    Every step asks for θ and all φ: walks would take longer than a pass of a GPU.
    """
    *path, last = name.split(".")
    for part in path:
        module = cast(nn.Module, module._modules[part])
    return cast(nn.Parameter, module._parameters[last])


def _named(
    identities: Mapping[Language, Sequence[int]], names: Mapping[int, str]
) -> dict[Language, list[str]]:
    return {key: [names[identity] for identity in owned] for key, owned in identities.items()}


def _state_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The state dict with the tensors themselves; a tied tensor comes under each of its names."""
    state = module.state_dict(keep_vars=True)  # detached copies would have other identities
    # quantisation libraries put other objects into it
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
