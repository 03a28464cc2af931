"""What the look-aheads work on: the arguments of the outer step, checked and without names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from hf_meta_adapters._typing import Language, Loss
from hf_meta_adapters.meta._combination import Combination
from hf_meta_adapters.meta._differentiate import Differentiate
from hf_meta_adapters.meta._inner_optimizer import InnerOptimizer
from hf_meta_adapters.meta._mixed_product import MixedProduct
from hf_meta_adapters.meta._reduce import Reduce
from hf_meta_adapters.meta._shares import Shares
from hf_meta_adapters.meta._train_pass import TrainPass, loss_and_gradient, train_pass
from hf_meta_adapters.meta._validation_pass import ValidationPass, validation_pass
from hf_meta_adapters.meta.options import MetaOptions
from hf_meta_adapters.meta.vectors import Vector, mapped


@dataclass(frozen=True)
class Problem:
    """One outer step, with parameters as lists and losses that replay their random numbers.

    Args:
        train: The micro-batches of L_i^train of each language.
        meta: The micro-batches of L_j^val of each language.
        shared: θ.
        language: φ of each language.
        options: How the meta-gradient is taken.
        learning_rate: β.
        inner: Δ.
        product: The estimator of the mixed product.
        train_gradients: Whether ∇φ_l L_l^train are wanted.
        weights: language i → language j → w_ij.
        differentiate: Evaluates and differentiates a loss.
        reduce: Sums over processes.
        mixed: The languages whose mixed products are taken.
        combination: What puts the update of θ together, where that is not the mean.
        shares: The weight of each language in the gradient of θ.
    """

    train: Mapping[Language, Sequence[Loss]]
    meta: Mapping[Language, Sequence[Loss]]
    shared: list[Tensor]
    language: Mapping[Language, list[Tensor]]
    options: MetaOptions
    learning_rate: float
    inner: InnerOptimizer
    product: MixedProduct
    train_gradients: bool
    weights: Mapping[Language, Mapping[Language, float]]
    differentiate: Differentiate
    reduce: Reduce
    shares: Shares
    mixed: Sequence[Language]
    combination: Combination | None = None

    @property
    def mixed_factor(self) -> float:
        """The factor of indirect parts, with which those of some languages stand for all."""
        return 1 / self.options.mixed_languages

    @property
    def trained(self) -> list[Language]:
        """The languages that have a training loss, over which means of it run."""
        return [key for key, losses in self.train.items() if losses]

    def train_pass(self, key: Language, *, keep_graph: bool = False) -> TrainPass:
        """The training pass of language `key` at the present θ."""
        losses = self.train[key]
        if self.options.mixed_rows == 1.0:
            # Without the option, a sample is micro-batches like any others.
            losses = list(losses)

        return train_pass(
            losses,
            self.shared,
            self.language[key],
            differentiate=self.differentiate,
            keep_graph=keep_graph,
        )

    def shared_gradient(self, key: Language) -> Vector:
        """∇θ of the training loss of language `key` at the present θ, of this process."""
        _, gradient = loss_and_gradient(self.train[key], self.shared, self.differentiate)
        return gradient

    def validation_pass(self, key: Language, direct_for: Sequence[Language]) -> ValidationPass:
        """The validation pass with the weights of language `key` at the present θ."""
        weights, shared = self.weights[key], self.shared

        if self.options.meta_gradient == "first_order":
            # v is not used: the languages' own losses suffice, without a gradient of θ
            weights = {other: weight for other, weight in weights.items() if other in direct_for}
            shared = []

        validation = validation_pass(
            self.meta,
            weights,
            shared,
            self.language,
            direct_for=direct_for,
            differentiate=self.differentiate,
            reduce=self.reduce,
        )

        if self.options.cpu_offload:
            on_cpu = mapped(validation.shared_gradient, Tensor.cpu)
            validation = replace(validation, shared_gradient=on_cpu)

        return validation
