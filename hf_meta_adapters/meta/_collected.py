"""The gradients and losses of an outer step while it runs, as vectors without names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.meta._combination import Combination
from hf_meta_adapters.meta._problem import Problem
from hf_meta_adapters.meta._projection import projected
from hf_meta_adapters.meta._shares import Shares
from hf_meta_adapters.meta._train_pass import TrainPass
from hf_meta_adapters.meta._validation_pass import ValidationPass
from hf_meta_adapters.meta.options import MetaOptions
from hf_meta_adapters.meta.result import (
    JointGradients,
    MetaGradients,
    named,
    with_meta_gradients,
)
from hf_meta_adapters.meta.vectors import Vector, absent, add_, present, scaled


@dataclass(frozen=True)
class Collected:
    """Sums and parts that grow from language to language.

    Args:
        share: 1/L, of the languages that have a training loss.
        shared: Σ_i w_i ∇θ L_i^train, by default the mean.
        direct: The direct part of each language.
        indirect: The indirect part of each language.
        train: ∇φ_l L_l^train of each language, without the factor 1/L.
        weighted_train: The same with the factor, once it was asked for.
        train_loss: L_l^train.
        meta_losses: L_l^val at each θ' where it was evaluated.
        target: The mean of v over the θ', where θ is projected or v is wanted.
        combination: What puts the update of θ together, where that is not the mean.
        update: What it has put together.
        weights: With which weights.
        products: ⟨∇θ L_l^train, v⟩ with v of an earlier step, where they are compared.
    """

    share: float
    shared: Vector
    direct: dict[Language, Vector] = field(default_factory=dict)
    indirect: dict[Language, Vector] = field(default_factory=dict)
    train: dict[Language, Vector] = field(default_factory=dict)
    weighted_train: dict[Language, Vector] = field(default_factory=dict)
    train_loss: dict[Language, Tensor] = field(default_factory=dict)
    meta_losses: dict[Language, list[Tensor]] = field(default_factory=dict)
    target: Vector | None = None
    combination: Combination | None = None
    update: Vector | None = None
    weights: dict[Language, Tensor] = field(default_factory=dict)
    products: dict[Language, Tensor] = field(default_factory=dict)

    @classmethod
    def empty(cls, problem: Problem) -> Collected:
        """Nothing yet."""
        target: Vector | None = None
        if problem.options.shared_update == "project" or problem.shares.keep_validation:
            target = absent(problem.shared)

        return cls(
            share=1 / max(len(problem.trained), 1),
            shared=absent(problem.shared),
            meta_losses={key: [] for key in problem.meta},
            target=target,
            combination=problem.combination,
        )

    def add_train(
        self, problem: Problem, key: Language, train: TrainPass, shared_gradient: Vector
    ) -> None:
        """Record the training pass of a language, summed over processes.

        Args:
            problem: The outer step.
            key: The language.
            train: The pass of this process.
            shared_gradient: ∇θ L_key^train, summed over processes already.
        """
        add_(self.shared, shared_gradient, problem.shares.of[key])
        if self.combination is not None:
            self.combination.add(key, shared_gradient)

        product = problem.shares.product(shared_gradient, train.value)
        if product is not None:
            self.products[key] = product

        value: Vector = [train.value]
        groups: list[tuple[Vector, Sequence[Tensor]]] = [(value, [train.value])]
        if problem.train_gradients:
            groups.append((train.language_gradient, train.language))

        sums = problem.reduce.summed(*groups)
        self.train_loss[key] = present(sums[0])[0]
        if problem.train_gradients:
            self.train[key] = sums[1]

    def weighted(self, key: Language) -> Vector:
        """1/L ∇φ_key L_key^train, computed once."""
        if key not in self.weighted_train:
            self.weighted_train[key] = scaled(self.train[key], self.share)
        return self.weighted_train[key]

    def add_validation(self, validation: ValidationPass, weight: float) -> None:
        """Record validation losses, and v with the weight of its θ' among all."""
        if self.target is not None:
            add_(self.target, validation.shared_gradient, weight)

        for key, value in validation.losses.items():
            self.meta_losses[key].append(value)

    def combined(self, problem: Problem) -> Collected:
        """This with the update of θ put together, when all is collected and θ is back."""
        if self.combination is None:
            return self

        update, weights = self.combination.result(problem.shared_gradient)
        return replace(self, update=update, weights=weights)

    def result(
        self,
        shared: Sequence[str],
        language: Mapping[Language, Sequence[str]],
        options: MetaOptions,
        without_loss: dict[str, tuple[Language, ...]],
        shares: Shares,
    ) -> MetaGradients:
        """Put the names back, and the weights of the languages where they were left out.

        Args:
            shared: The names of θ.
            language: The names of φ of each language whose meta-gradient was taken.
            options: How the parts are put together.
            without_loss: Role → the languages that have no loss in it.
            shares: The weight of each language in the gradient of θ.

        Returns:
            The result of the outer step.
        """
        train = {}
        for key, names in language.items():
            if key in self.train:
                train[key] = named(names, self.weighted(key))

        # with a look-ahead per language, the mean over the θ'_i
        meta_loss = {}
        for key, values in self.meta_losses.items():
            if values:
                meta_loss[key] = torch.stack(values).mean()

        update, removed = self.update or self.shared, None
        if self.target is not None and options.shared_update == "project":
            groups = options.shared_update_groups
            update, removed = projected(self.shared, self.target, shared, groups)

        result = with_meta_gradients(
            JointGradients(
                named(shared, update),
                train,
                self.train_loss,
                without_loss=without_loss,
                weights=self.weights,
                alignment=shares.alignment(self.products, self.shared),
            ),
            language,
            self.direct,
            self.indirect,
            meta_loss=meta_loss,
            size=options.indirect_size(),
        )
        validation = None
        if self.target is not None and shares.keep_validation:
            validation = named(shared, self.target)
        return replace(result, removed=removed, validation=validation)
