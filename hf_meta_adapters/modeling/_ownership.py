"""Which tensor is whose, and what each was called before adapters were put into the model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError


@dataclass
class Ownership:
    """The names of the tensors of a model with languages, by owner.

    A trained parameter that appears while a language is added belongs to that language. Owners are
    found by the identity of tensors, never by looking at names: a language called `te` is not part
    of `adapter`.

    Args:
        shared: The names of θ.
        languages: The names of φ_l of each language.
        created: The names of all that came with a language: φ_l, and what its method keeps fixed.
        original: The name of each tensor of the base model before any adapter → its name now.
    """

    shared: list[str]
    languages: dict[Language, list[str]]
    created: dict[Language, list[str]]
    original: dict[str, str]

    @classmethod
    def of_base(cls, base: nn.Module, keep: set[str] | None = None) -> Ownership:
        """The ownership in a model without languages: θ is what is trained, or those of it that `keep` names."""
        shared = [name for name, tensor in base.named_parameters() if tensor.requires_grad]
        chosen = shared if keep is None else [name for name in shared if name in keep]
        return cls(chosen, {}, {}, {name: name for name in _tensors(base)})

    def held(self, module: nn.Module) -> Held:
        """The same by the identity of tensors, to be kept while `module` is being changed."""
        parameters, state = dict(module.named_parameters()), _tensors(module)

        def of(names: Iterable[str]) -> list[int]:
            return [id(parameters[name]) for name in names]

        return Held(
            everything=list(parameters.values()),
            shared=of(self.shared),
            languages={key: of(names) for key, names in self.languages.items()},
            created={key: of(names) for key, names in self.created.items()},
            original={name: id(state[now]) for name, now in self.original.items()},
        )

    def without(self, module: nn.Module, replaced: Sequence[nn.Module]) -> Ownership:
        """The same with a θ that has nothing of modules that are no longer called, unless it is tied to what is."""
        inside = {part for one in replaced for part in one.modules()}
        called = {
            id(p)
            for part in module.modules()
            if part not in inside
            for p in part.parameters(recurse=False)
        }
        parameters = dict(module.named_parameters())
        return replace(
            self, shared=[name for name in self.shared if id(parameters[name]) in called]
        )

    def require_gradients(
        self, module: nn.Module, languages: Iterable[Language] | None = None, *, shared: bool = True
    ) -> None:
        """Make θ (if `shared`) and the φ_l of some languages (default: all) trainable, and nothing else."""
        chosen = self.languages if languages is None else languages
        owned = {
            *(self.shared if shared else ()),
            *(name for key in chosen for name in self.languages[key]),
        }
        for name, parameter in module.named_parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(name in owned)

    def count(self, module: nn.Module) -> str:
        """How many parameters are shared, language-specific and frozen, in one line."""
        sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
        shared = sum(sizes[name] for name in self.shared)
        own = {key: sum(sizes[name] for name in names) for key, names in self.languages.items()}
        each = ", ".join(f"{key} {size:,}" for key, size in own.items())
        total = sum(sizes.values())
        frozen = total - shared - sum(own.values())
        return (
            f"shared (θ): {shared:,} || per language (φ): {each} || frozen: {frozen:,} || all:"
            f" {total:,}"
        )


@dataclass
class Held:
    """An `Ownership` by identity, which holds the tensors so that no new one can take the identity of an old one."""

    everything: list[nn.Parameter]
    shared: list[int]
    languages: dict[Language, list[int]]
    created: dict[Language, list[int]]
    original: dict[str, int]

    def after(self, module: nn.Module, language: Language | None = None) -> Ownership:
        """The names now; the trained of what is new in `module` are those of `language`, or of θ if that is `None`."""
        names = {id(tensor): name for name, tensor in module.named_parameters()}
        state = {id(tensor): name for name, tensor in _tensors(module).items()}
        old = {id(tensor) for tensor in self.everything}
        new = [tensor for tensor in module.parameters() if id(tensor) not in old]
        trained = [id(tensor) for tensor in new if tensor.requires_grad]
        if language is None:
            self.shared += trained
        else:
            self.languages[language] = trained
            self.created[language] = [id(tensor) for tensor in new]
        return Ownership(
            shared=[names[identity] for identity in self.shared],
            languages={
                key: [names[identity] for identity in own] for key, own in self.languages.items()
            },
            created={
                key: [names[identity] for identity in own] for key, own in self.created.items()
            },
            original={name: state[identity] for name, identity in self.original.items()},
        )


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """The state dict with the tensors themselves; a tied tensor comes under each of its names."""
    state = module.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def chosen_names(base: nn.Module, shared: str) -> set[str] | None:
    """The names of the parameters of θ, or `None` for all that are trained.

    Args:
        base: The model before any adapter.
        shared: `"all"`, `"none"` or a regular expression that is searched in the names.

    Raises:
        ConfigurationError: If it is no regular expression, or matches nothing that is trained.
    """
    if shared == "all":
        return None
    if shared == "none":
        return set()
    rule = (
        '`shared` must be "all", "none" or a regular expression over the names of parameters that'
        " the base trains."
    )
    example = 'Write for example "layer_norm|LayerNorm".'
    if not isinstance(shared, str):
        raise ConfigurationError(
            f"{rule} Found {shared!r} of type `{type(shared).__name__}`. {example}"
        )
    names = [name for name, tensor in base.named_parameters() if tensor.requires_grad]
    try:
        found = {name for name in names if re.search(shared, name)}
    except re.error as error:
        raise ConfigurationError(f"{rule} Found {shared!r}: {error}. {example}") from error
    if not found:
        raise ConfigurationError(
            f"{rule} Found {shared!r}, which matches none of {names[:5]} and {len(names)} in all. "
            "Write a part of such names."
        )
    return found
