"""The arithmetic of groups of languages: their parameters, and their gradients by language."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language, Parameters
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta import JointGradients, MetaGradients, MetaOptions
from hf_meta_adapters.meta.result import NamedGradient, with_meta_gradients
from hf_meta_adapters.meta.vectors import Vector

_Gradients: TypeAlias = Mapping[str, Mapping[str, Tensor]]
"""A group or a language → parameter name → gradient."""


class Grouping:
    """Which languages form a group, and how the gradients of groups divide among languages.

    With G groups and T_g = G Σ_{i∈g} w_i L_i, where the w_i sum to 1, the mean of the T_g is
    Σ_i w_i L_i, and so is every gradient of it. Only the indirect part of a training group, whose
    w_i are 1/L, is ∇φ_i ⟨∇θ T_g, v⟩ and has a factor G/L that that of a language has not.

    Args:
        phi: φ of each language, by name.
        size: How many languages form a group, at most.

    Raises:
        ConfigurationError: If the size is not a positive whole number.
    """

    def __init__(self, phi: Mapping[Language, Parameters], size: int) -> None:
        if not isinstance(size, int) or size < 1:
            raise ConfigurationError(
                f"`languages_per_pass` must be a whole number of at least 1. Found {size!r}."
            )

        self.members: dict[str, tuple[Language, ...]] = {}
        """The name of a group → its languages."""

        languages = list(phi)
        for start in range(0, len(languages), size):
            group = tuple(languages[start : start + size])
            self.members["+".join(group)] = group

        self._phi = phi

    def names_of(self, languages: Collection[Language]) -> list[str]:
        """The names of the groups that have one of the languages."""
        return [
            name for name, members in self.members.items() if not set(members).isdisjoint(languages)
        ]

    def members_among(self, languages: Collection[Language]) -> dict[str, tuple[Language, ...]]:
        """The name of every group → those of its members that are among some languages."""
        return {
            name: tuple(key for key in members if key in languages)
            for name, members in self.members.items()
        }

    @staticmethod
    def weight_of(members: Mapping[str, Sequence[Language]]) -> float:
        """G/L of the groups that have a member."""
        sizes = [len(group) for group in members.values() if group]
        return len(sizes) / max(sum(sizes), 1)

    def weights_of(
        self, languages: Collection[Language], named: Mapping[Language, float] | None = None
    ) -> dict[Language, float]:
        """G w_i of languages that have a loss.

        Args:
            languages: The languages.
            named: What each counts, in proportion; by default all count alike.
        """
        groups = len(self.names_of(languages))
        counts = {key: 1.0 if named is None else named[key] for key in languages}
        total = sum(counts.values())
        return {key: groups * count / total for key, count in counts.items()}

    def parameters(self, languages: Collection[Language]) -> dict[str, Parameters]:
        """φ of the languages asked for, by group."""
        wanted: dict[str, list[Language]] = {}
        for name, members in self.members.items():
            wanted[name] = [key for key in members if key in languages]
        return joined_parameters(wanted, self._phi)

    def by_language(
        self, gradients: _Gradients, languages: Collection[Language]
    ) -> dict[Language, NamedGradient]:
        """The gradients of groups, divided among their languages."""
        phi = {key: parameters for key, parameters in self._phi.items() if key in languages}
        return divided(gradients, self.members, phi)

    def meta_gradients(
        self,
        gradients: MetaGradients,
        meta: Grouping,
        languages: Collection[Language],
        joint: JointGradients,
        meta_loss: dict[Language, Tensor],
        options: MetaOptions,
    ) -> MetaGradients:
        """The meta-gradients of training groups, divided among their languages.

        Args:
            gradients: The result of an outer step on the groups, without a bound.
            meta: The groups of the validation losses.
            languages: The languages whose meta-gradients are wanted.
            joint: Its gradients of joint training, by language already.
            meta_loss: L_l^val, 0-d.
            options: How large the indirect parts of the languages are to be.

        Returns:
            The result by language.
        """
        direct = meta.by_language(gradients.direct, languages)
        trained = self.members_among(joint.train_loss)
        weight = self.weight_of(trained)
        indirect = _without_factor(self.by_language(gradients.indirect, languages), weight)

        phi = {**self._phi, **meta._phi}
        return language_gradients(
            joint, phi, direct, indirect, meta_loss=meta_loss, options=options
        )


def joined_parameters(
    groups: Mapping[str, Collection[Language]], phi: Mapping[Language, Parameters]
) -> dict[str, Parameters]:
    """The φ of the languages of each group, in one mapping a group."""
    parameters: dict[str, Parameters] = {}
    for name, members in groups.items():
        group: dict[str, Tensor] = {}
        for key in members:
            group.update(phi[key])

        parameters[name] = group
    return parameters


def divided(
    gradients: _Gradients,
    groups: Mapping[str, Collection[Language]],
    phi: Mapping[Language, Parameters],
) -> dict[Language, NamedGradient]:
    """The gradients of groups, divided among those of their languages that `phi` has."""
    by_language: dict[Language, NamedGradient] = {}
    for name, members in groups.items():
        # The gradients of this group were not asked for.
        if name not in gradients:
            continue

        group = gradients[name]
        for key in members:
            if key in phi:
                by_language[key] = {path: group[path] for path in phi[key] if path in group}

    return by_language


def language_gradients(
    joint: JointGradients,
    phi: Mapping[Language, Parameters],
    direct: _Gradients,
    indirect: _Gradients,
    *,
    meta_loss: dict[Language, Tensor],
    options: MetaOptions,
) -> MetaGradients:
    """Put the parts of the meta-gradients of languages together.

    Args:
        joint: The gradients of joint training.
        phi: φ of each language.
        direct: The direct parts, by name.
        indirect: The indirect parts, by name.
        meta_loss: L_l^val, 0-d.
        options: How large the indirect parts are to be.

    Returns:
        The result of the outer step.
    """
    languages = [key for key in phi if key in direct or key in indirect]

    def vectors(gradients: _Gradients) -> dict[Language, Vector]:
        found: dict[Language, Vector] = {}
        for key in languages:
            gradient = gradients.get(key, {})
            found[key] = [gradient.get(path) for path in phi[key]]
        return found

    return with_meta_gradients(
        joint,
        {key: list(phi[key]) for key in languages},
        vectors(direct),
        vectors(indirect),
        meta_loss=meta_loss,
        size=options.indirect_size(),
    )


def _without_factor(gradients: _Gradients, divisor: float) -> dict[Language, NamedGradient]:
    """The gradients by language without a common factor: the indirect parts without G/L."""
    divided_by: dict[Language, NamedGradient] = {}
    for key, gradient in gradients.items():
        entries = list(gradient.values())
        if entries:
            # one fused kernel instead of one for each parameter
            entries = list(torch._foreach_div(entries, divisor))
        divided_by[key] = dict(zip(gradient, entries, strict=True))
    return divided_by
