"""Several languages in one forward pass: the outer step on groups of languages, and its result by language again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hf_meta_adapters._typing import Batch, Language, Loss, Parameters
from hf_meta_adapters.errors import ConfigurationError, LanguageError
from hf_meta_adapters.meta import (
    JointGradients,
    MetaGradients,
    MetaOptions,
    MetaSignal,
    joint_gradient,
    meta_gradient,
)
from hf_meta_adapters.meta.result import bounded, named
from hf_meta_adapters.steps.losses import LossFunction, label_counts
from hf_meta_adapters.steps.routed_loss import RoutedBatch, RoutedLoss

Batches: TypeAlias = Mapping[Language, Batch | Sequence[Batch]]


def check_groups(options: MetaOptions) -> None:
    """Check that an outer step can be taken on groups of languages.

    Args:
        options: How the meta-gradient is taken.

    Raises:
        ConfigurationError: If each language needs passes of its own.
    """
    if options.lookahead == "per_language" or options.meta_languages == "others":
        raise ConfigurationError(
            "`languages_per_pass` over 1 needs one look-ahead and one validation loss for all"
            " languages. Found "
            f'`lookahead="{options.lookahead}"` and `meta_languages="{options.meta_languages}"`.'
            " Write "
            '`lookahead="shared"` and `meta_languages="all"`, or `languages_per_pass=1`.'
        )


class Groups:
    """The languages of a step in groups of some that share a forward pass; to the mathematics each is one language.

    With G groups of L languages and T_g = G/L Σ_{i∈g} L_i, the mean of the T_g is that of the L_i,
    and so is every gradient of it. Only the indirect part, ∇φ_i ⟨∇θ T_g, v⟩, has the factor G/L
    that the one of a language has not.

    Args:
        model: The model.
        languages: The languages.
        size: How many share a pass, at most.
        loss_function: What evaluates a batch.
        autocast: Makes the context of an evaluation.
        all_reduce: Sums over processes in place, on several.
    """

    def __init__(
        self,
        model: Any,
        languages: Sequence[Language],
        size: int,
        *,
        loss_function: LossFunction | None,
        autocast: Callable[[], AbstractContextManager[Any]],
        all_reduce: Callable[[Tensor], None] | None,
    ) -> None:
        if not isinstance(size, int) or size < 1:
            raise ConfigurationError(
                f"`languages_per_pass` must be a whole number of at least 1. Found {size!r}."
            )
        self._model = model
        self._loss = (
            loss_function
            if isinstance(loss_function, RoutedLoss)
            else RoutedLoss(model, loss_function)
        )
        self._autocast = autocast
        self._all_reduce = all_reduce
        parts = [tuple(languages[start : start + size]) for start in range(0, len(languages), size)]
        self.members = {"+".join(part): part for part in parts}
        """Name of a group → its languages."""
        self._weight = len(parts) / len(languages)
        self._own = {key: model.language_parameters(key) for key in languages}

    def losses(self, batches: Batches) -> Recorded:
        """The losses T_g of the groups, as `batch_losses` gives those of languages.

        Args:
            batches: One batch or several for each language.

        Returns:
            The losses, and where those of the languages will be found.
        """
        several = {
            key: [given] if isinstance(given, Mapping) else list(given)
            for key, given in batches.items()
        }
        totals = label_counts(self._model, several, self._all_reduce)
        recorded = Recorded({name: [] for name in self.members}, {key: [] for key in several})
        for name, members in self.members.items():
            for number in range(max(len(several[key]) for key in members)):
                given = {key: several[key][number] for key in members if number < len(several[key])}
                with self._autocast():
                    together = self._loss.together(self._model, given)
                labels = torch.stack([totals[key] for key in given])
                recorded.losses[name].append(self._group_loss(together, labels, recorded.seen))
        return recorded

    def parameters(self, languages: Sequence[Language]) -> dict[str, Parameters]:
        """φ of the languages asked for, by group."""
        return {
            name: {
                path: value
                for key in members
                if key in languages
                for path, value in self._own[key].items()
            }
            for name, members in self.members.items()
        }

    def joint_gradient(self, batches: Batches, **given: Any) -> JointGradients:
        """Compute `meta.joint_gradient`, by language.

        Args:
            batches: The training batches of each language.
            **given: What `meta.joint_gradient` takes beside losses and parameters.

        Returns:
            The gradients and losses.
        """
        train = self.losses(batches)
        parameters = self.parameters(list(batches))
        found = joint_gradient(train.losses, self._model.shared_parameters(), parameters, **given)
        (train_loss,) = self._values(train)
        return JointGradients(found.shared, self._by_language(found.train), train_loss)

    def meta_gradient(
        self,
        train_batches: Batches,
        meta_batches: Batches,
        options: MetaOptions,
        *,
        for_languages: Sequence[Language] | None = None,
        **given: Any,
    ) -> MetaGradients:
        """Compute `meta.meta_gradient`, by language.

        Args:
            train_batches: The training batches of each language.
            meta_batches: Its validation batches.
            options: How the meta-gradient is taken.
            for_languages: The languages whose meta-gradients are wanted; default all.
            **given: What `meta.meta_gradient` takes beside these.

        Returns:
            The gradients, their parts, the losses and the meter.

        Raises:
            ConfigurationError: If each language needs passes of its own.
            LanguageError: If the languages of the two roles differ.
        """
        check_groups(options)
        _check_same_languages(train_batches, meta_batches)
        languages = list(train_batches if for_languages is None else for_languages)
        train, meta = self.losses(train_batches), self.losses(meta_batches)
        found = meta_gradient(
            train.losses,
            meta.losses,
            self._model.shared_parameters(),
            self.parameters(languages),
            for_languages=[
                name for name, members in self.members.items() if set(members) & set(languages)
            ],
            **given,
            **(vars(options) | {"max_indirect_ratio": None}),  # each language has its own
        )
        direct = self._by_language(found.direct, languages)
        indirect = {
            key: {path: value / self._weight for path, value in own.items()}
            for key, own in self._by_language(found.indirect, languages).items()
        }
        vectors = {
            key: [[part[key].get(path) for path in self._own[key]] for part in (direct, indirect)]
            for key in direct
        }
        if options.max_indirect_ratio is not None:
            for key, (first, second) in vectors.items():
                vectors[key] = [first, bounded(first, second, options.max_indirect_ratio)]
                indirect[key] = named(list(self._own[key]), vectors[key][1])
        train_loss, meta_loss = self._values(train, meta)
        return MetaGradients(
            shared=found.shared,
            direct=direct,
            indirect=indirect,
            train=self._by_language(found.train, languages),
            train_loss=train_loss,
            meta_loss=meta_loss,
            meter=MetaSignal.of(
                *([one for pair in vectors.values() for one in pair[part]] for part in (0, 1))
            ),
            language_meter={key: MetaSignal.of(*pair) for key, pair in vectors.items()},
        )

    def _group_loss(
        self, together: RoutedBatch, labels: Tensor, seen: dict[Language, list[Tensor]]
    ) -> Loss:
        noted = False

        def value() -> Tensor:
            nonlocal noted
            with self._autocast():
                sums = self._loss.sums(self._model, together)
            shares = sums / labels
            # at θ, or where validation losses are wanted; later evaluations are of finite
            # differences
            if not noted:
                noted = True
                for key, share in zip(together.languages, shares.detach(), strict=True):
                    seen[key].append(share)
            return shares.sum() * self._weight

        return value

    def _by_language(
        self, found: Mapping[str, Mapping[str, Tensor]], languages: Sequence[Language] | None = None
    ) -> dict[Language, dict[str, Tensor]]:
        return {
            key: {path: found[name][path] for path in self._own[key] if path in found[name]}
            for name, members in self.members.items()
            if name in found
            for key in members
            if languages is None or key in languages
        }

    def _values(self, *recorded: Recorded) -> list[dict[Language, Tensor]]:
        """The losses of the languages, summed over micro-batches and, in one message, over processes."""
        keys = [[key for key, parts in one.seen.items() if parts] for one in recorded]
        sums = [
            torch.stack(one.seen[key]).sum()
            for one, own in zip(recorded, keys, strict=True)
            for key in own
        ]
        if not sums:
            return [{} for _ in recorded]
        together = torch.stack(sums)
        if self._all_reduce is not None:
            self._all_reduce(together)
        values = iter(together)
        return [{key: next(values) for key in own} for own in keys]


@dataclass(frozen=True)
class Recorded:
    """Losses of groups, and what their first evaluations say of each language.

    Args:
        losses: Name of a group → a loss for each micro-batch.
        seen: language → its part of each micro-batch that has been evaluated, detached.
    """

    losses: dict[str, list[Loss]]
    seen: dict[Language, list[Tensor]]


def _check_same_languages(train: Batches, meta: Batches) -> None:
    if set(train) != set(meta):
        raise LanguageError(
            "With `languages_per_pass` over 1 the languages with meta batches must be those with"
            f" training batches. Found {sorted(meta)} and {sorted(train)}. Give both roles the same"
            " ones, or write `languages_per_pass=1`."
        )
