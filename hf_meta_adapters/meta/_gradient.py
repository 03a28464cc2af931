"""The outer step of Algorithm 1: meta-gradients of φ, and the training gradient of θ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language, Loss, MicroBatches, Parameters
from hf_meta_adapters.meta._anchor import Anchor, anchored
from hf_meta_adapters.meta._differentiate import Differentiate, differentiating
from hf_meta_adapters.meta._inner_optimizer import SGD, InnerOptimizer
from hf_meta_adapters.meta._inputs import check_inputs
from hf_meta_adapters.meta._lookahead import (
    Ahead,
    Trajectory,
    carry_back,
    look_ahead,
    validation_pass,
)
from hf_meta_adapters.meta._options import MetaOptions, meta_options
from hf_meta_adapters.meta._products import MixedProduct
from hf_meta_adapters.meta._reduce import Reduce
from hf_meta_adapters.meta._replay import replayed
from hf_meta_adapters.meta._train_pass import TrainPass, train_pass
from hf_meta_adapters.meta._validation_weights import validation_weights
from hf_meta_adapters.meta.result import MetaGradients, MetaSignal, bounded, named
from hf_meta_adapters.meta.vectors import Vector, add_, present, scaled


def meta_gradient(
    train_losses: Mapping[Language, MicroBatches],
    meta_losses: Mapping[Language, MicroBatches],
    shared: Parameters,
    language: Mapping[Language, Parameters],
    *,
    inner_learning_rate: float,
    inner_optimizer: InnerOptimizer | None = None,
    for_languages: Sequence[Language] | None = None,
    all_reduce: Callable[[Tensor], None] | None = None,
    loss_scale: Tensor | None = None,
    train_gradients: bool = True,
    precision: torch.dtype | None = None,
    seed: int = 0,
    preset: str | None = None,
    **options: Any,
) -> MetaGradients:
    """Compute the gradient of the validation loss of all languages after a virtual step of the shared weights.

    With g_i = ∇θ L_i^train(θ, φ_i), θ'_i = θ − β Δ(g_i) and D_i = ∂Δ/∂g at g_i (Δ(g) = g and D = 1
    for plain SGD),

        v_i       = Σ_j w_ij ∇θ L_j^val(θ'_i, φ_j)
        direct_i  = w_ii ∇φ_i L_i^val(θ'_i, φ_i)
        indirect_i = −β ∇φ_i ⟨∇θ L_i^train(θ, φ_i), D_i v_i⟩     (v_i held constant)

    which is the gradient for φ_i of Σ_j w_ij L_j^val(θ'_i, φ_j): Algorithm 1 of Wang, Lipton and
    Tsvetkov (EMNLP 2020) with w_ij = 1/L. No graph outlives one language. θ is moved in place and
    put back bit for bit; no parameter, gradient buffer or optimizer is touched. Passes of one loss
    replay the same random numbers (dropout).

    Args:
        train_losses: L_i^train of each language: a function without arguments that evaluates it at
            the present values of the parameters, or several of them (micro-batches) whose sum it
            is.
        meta_losses: L_j^val of each language, likewise. It must have the languages of
            `train_losses`.
        shared: θ, by name.
        language: φ_l of each language, by name; may be empty for a language without parameters of
            its own.
        inner_learning_rate: β.
        inner_optimizer: Δ; default `SGD()`, the paper's.
        for_languages: The languages whose meta-gradients are wanted; default all. The others still
            count in the validation loss, and in `.shared` unless the look-ahead is per language.
        all_reduce: Sums a flat tensor over processes in place, as `torch.distributed.all_reduce`
            does. The losses must then be the shares of each process in the loss of the global
            batch.
        loss_scale: A factor, 0-d, of what goes backward, divided out of all that is returned; as
            fp16 needs it.
        train_gradients: Whether ∇φ_l L_l^train are wanted (`.train`), which are the size of all φ.
        precision: In what the losses are evaluated, if that is less than what θ is stored in, as
            under autocast; the radius of finite differences depends on it.
        seed: Of the draw of languages under `meta_languages_per_step`; the same on every process,
            another in each step.
        preset: `"paper"` or `"fast"`; options given beside it win.
        **options: See `MetaOptions`: `meta_gradient`, `lookahead`, `meta_languages`,
            `meta_languages_per_step`, `inner_steps`, `finite_difference_scheme`,
            `finite_difference_radius`, `max_indirect_ratio`, `cpu_offload`.

    Returns:
        The gradients, their parts, the losses and the meter. With `for_languages` and
        `lookahead="per_language"` the entry `.shared` sums over these languages alone, still with
        the weight 1/L.

    Raises:
        ConfigurationError: If options or parameters cannot work.
        LanguageError: If the languages of the arguments differ.

    Example:
        >>> import torch
        >>> theta, phi = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
        >>> loss = lambda: (theta * phi).square().sum()
        >>> step = meta_gradient({"en": loss}, {"en": loss}, {"w": theta}, {"en": {"a": phi}},
        ...                      inner_learning_rate=0.1, meta_gradient="exact", lookahead="per_language")
        >>> step.direct["en"]["a"]
        tensor([1.2800, 1.2800])
        >>> step.indirect["en"]["a"]
        tensor([-0.6400, -0.6400])
    """
    chosen = meta_options(preset, **options)
    device = check_inputs(train_losses, meta_losses, shared, language, chosen)
    theta = list(shared.values())
    every = [*theta, *(value for own in language.values() for value in own.values())]
    targets = list(train_losses) if for_languages is None else list(for_languages)
    with (
        differentiating(every, loss_scale) as differentiate,
        anchored(theta, cpu_offload=chosen.cpu_offload) as anchor,
    ):
        problem = _Problem(
            train={key: replayed(loss, device) for key, loss in train_losses.items()},
            meta={key: replayed(loss, device) for key, loss in meta_losses.items()},
            shared=theta,
            language={key: list(language[key].values()) for key in train_losses},
            options=chosen,
            learning_rate=inner_learning_rate,
            inner=inner_optimizer or SGD(),
            product=chosen.product(precision),
            train_gradients=train_gradients,
            weights=validation_weights(list(meta_losses), chosen, seed),
            differentiate=differentiate,
            reduce=Reduce(all_reduce),
        )
        flow = _each_ahead if chosen.lookahead == "per_language" else _shared_ahead
        parts = flow(problem, targets, anchor)
    return _named(parts, list(shared), {key: list(language[key]) for key in targets}, chosen)


@dataclass(frozen=True)
class _Problem:
    """The arguments, with parameters as lists and losses that replay their random numbers."""

    train: Mapping[Language, Sequence[Loss]]
    meta: Mapping[Language, Sequence[Loss]]
    shared: list[Tensor]
    language: Mapping[Language, list[Tensor]]
    options: MetaOptions
    product: MixedProduct
    train_gradients: bool
    learning_rate: float
    inner: InnerOptimizer
    weights: Mapping[Language, Mapping[Language, float]]
    differentiate: Differentiate
    reduce: Reduce

    def validate(self, key: Language, direct_for: Sequence[Language]) -> Ahead:
        """The validation pass with the weights of `key` at the present θ."""
        weights, shared = self.weights[key], self.shared
        if (
            self.options.meta_gradient == "first_order"
        ):  # v is not used: own losses only, and no gradient of θ
            weights, shared = {own: weights[own] for own in direct_for}, []
        ahead = validation_pass(
            self.meta,
            weights,
            shared,
            self.language,
            direct_for=direct_for,
            differentiate=self.differentiate,
            reduce=self.reduce,
        )
        if self.options.cpu_offload:
            ahead.shared = [None if entry is None else entry.cpu() for entry in ahead.shared]
        return ahead

    def train_pass(self, key: Language, *, keep_graph: bool = False) -> TrainPass:
        """The training pass of `key` at the present θ."""
        losses, own = self.train[key], self.language[key]
        return train_pass(
            losses, self.shared, own, differentiate=self.differentiate, keep_graph=keep_graph
        )


@dataclass
class _Parts:
    """What the flows collect, as vectors."""

    shared: Vector
    direct: dict[Language, Vector]
    indirect: dict[Language, Vector]
    train: dict[Language, Vector]
    train_loss: dict[Language, Tensor]
    meta_losses: dict[Language, list[Tensor]]
    languages: int

    @classmethod
    def empty(cls, problem: _Problem) -> _Parts:
        return cls(
            [None] * len(problem.shared),
            {},
            {},
            {},
            {},
            {key: [] for key in problem.meta},
            len(problem.train),
        )

    def add_train(self, problem: _Problem, key: Language, here: TrainPass, slope: Vector) -> None:
        """Record the training pass of a language, summed over processes."""
        add_(self.shared, slope, 1 / self.languages)
        loss: Vector = [here.value]
        wanted = [(here.language_gradient, here.language)] if problem.train_gradients else []
        value, *own = problem.reduce.summed((loss, [here.value]), *wanted)
        self.train_loss[key] = present(value)[0]
        if own:
            self.train[key] = own[0]

    def add_ahead(self, ahead: Ahead) -> None:
        """Record validation losses."""
        for key, value in ahead.value.items():
            self.meta_losses[key].append(value)


def _each_ahead(problem: _Problem, targets: list[Language], anchor: Anchor) -> _Parts:
    """One look-ahead per language: step, validate, step back, carry v back; then the next language."""
    parts, options = _Parts.empty(problem), problem.options
    for key in targets:
        trajectory, slope = look_ahead(
            problem.train[key],
            problem.shared,
            problem.language[key],
            anchor=anchor,
            inner=problem.inner,
            learning_rate=problem.learning_rate,
            steps=options.inner_steps,
            differentiate=problem.differentiate,
            keep_graph=problem.product.needs_graph,
            reduce=problem.reduce,
        )
        ahead = problem.validate(key, [key])
        parts.add_ahead(ahead)
        parts.direct[key] = ahead.direct[key]
        parts.indirect[key] = _carried(problem, trajectory, ahead.shared, anchor)
        parts.add_train(problem, key, trajectory.passes[0], slope)
        del trajectory
    return parts


def _shared_ahead(problem: _Problem, targets: list[Language], anchor: Anchor) -> _Parts:
    """One look-ahead for all languages: a mean training gradient, one move, one validation pass, then each product."""
    parts, here = _Parts.empty(problem), {}
    for key in problem.train:
        at = problem.train_pass(key)
        parts.add_train(
            problem, key, at, *problem.reduce.summed((at.shared_gradient, problem.shared))
        )
        at.shared_gradient = [None] * len(
            problem.shared
        )  # not needed again: memory must not grow with the languages
        if not problem.product.needs_train_gradient:
            at.language_gradient = [None] * len(at.language)
        here[key] = at
    diagonal = None
    if problem.options.lookahead == "shared":
        move, diagonal = problem.inner.displacement(parts.shared)
        anchor.move(move, -problem.learning_rate)
    others = problem.options.meta_languages == "others"
    ahead = None if others else problem.validate(targets[0], targets)
    if ahead is not None:
        parts.add_ahead(ahead)
    point = anchor.here() if others else []
    for key in targets:
        # each language has its own v: one at a time, so that memory does not grow with the
        # languages
        if others:
            anchor.rebase(point)
            ahead = problem.validate(key, [key])
            parts.add_ahead(ahead)
            anchor.rebase()
        assert ahead is not None
        parts.direct[key] = ahead.direct[key]
        at = here.pop(key)
        parts.indirect[key] = _carried(
            problem, Trajectory([at], [diagonal], [None]), ahead.shared, anchor
        )
    return parts


def _carried(problem: _Problem, trajectory: Trajectory, ahead: Vector, anchor: Anchor) -> Vector:
    """The indirect part of one language, summed over processes; θ is back where the outer step began."""
    anchor.rebase()
    if problem.options.meta_gradient == "first_order":
        return [None] * len(trajectory.passes[0].language)
    indirect = carry_back(
        trajectory,
        ahead,
        product=problem.product,
        anchor=anchor,
        learning_rate=problem.learning_rate,
        reduce=problem.reduce,
    )
    problem.reduce((indirect, trajectory.passes[0].language))
    return indirect


def _named(
    parts: _Parts, shared: list[str], language: Mapping[Language, list[str]], options: MetaOptions
) -> MetaGradients:
    """Put the names back, and the weights of the languages to what was needed without them."""
    if options.max_indirect_ratio is not None:
        for key in language:
            parts.indirect[key] = bounded(
                parts.direct[key], parts.indirect[key], options.max_indirect_ratio
            )
    for key in parts.train:
        parts.train[key] = scaled(parts.train[key], 1 / parts.languages)
    direct, indirect = (
        [entry for key in language for entry in part[key]]
        for part in (parts.direct, parts.indirect)
    )
    return MetaGradients(
        shared=named(shared, parts.shared),
        direct={key: named(names, parts.direct[key]) for key, names in language.items()},
        indirect={key: named(names, parts.indirect[key]) for key, names in language.items()},
        train={
            key: named(language[key], parts.train[key]) for key in language if key in parts.train
        },
        train_loss=parts.train_loss,
        meta_loss={
            key: torch.stack(values).mean() for key, values in parts.meta_losses.items() if values
        },
        meter=MetaSignal.of(direct, indirect),
        language_meter={
            key: MetaSignal.of(parts.direct[key], parts.indirect[key]) for key in language
        },
    )
