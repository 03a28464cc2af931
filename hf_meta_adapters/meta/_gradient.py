"""The outer step of Algorithm 1: meta-gradients of φ, and the training gradient of θ.

The look-ahead says at which θ' the validation losses are differentiated:

    "per_language"   θ'_i = θ − β Δ(g_i), a step on language i alone: the paper's.
                     L² validation passes per outer step.
    "shared"         θ' = θ − β Δ(1/L Σ g_i), one step on all languages. L passes.
                     Close to the former while β is small.
    "none"           θ' = θ; the virtual step is not taken. L passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_meta_adapters._typing import AllReduce, Language, MicroBatches, Parameters
from hf_meta_adapters.meta._anchor import anchored
from hf_meta_adapters.meta._combining import combining
from hf_meta_adapters.meta._differentiating import differentiating
from hf_meta_adapters.meta._inner_optimizer import InnerOptimizer
from hf_meta_adapters.meta._inputs import (
    check_inputs,
    check_one_weighing,
    check_surgery,
    check_validation,
    every_parameter,
)
from hf_meta_adapters.meta._lookahead_per_language import per_language_lookahead
from hf_meta_adapters.meta._lookahead_shared import shared_lookahead
from hf_meta_adapters.meta._mixed_samples import drawn_languages
from hf_meta_adapters.meta._problem import Problem
from hf_meta_adapters.meta._reduce import Reduce
from hf_meta_adapters.meta._replay import replayed, with_loss, without_loss
from hf_meta_adapters.meta._sgd import SGD
from hf_meta_adapters.meta._validation_weights import validation_weights
from hf_meta_adapters.meta.outer_step_settings import OuterStepKeywords, outer_step_settings
from hf_meta_adapters.meta.result import MetaGradients
from hf_meta_adapters.meta.step_weights import shares_of

if TYPE_CHECKING:
    from typing_extensions import Unpack


def meta_gradient(
    train_losses: Mapping[Language, MicroBatches],
    meta_losses: Mapping[Language, MicroBatches],
    shared: Parameters,
    language: Mapping[Language, Parameters],
    *,
    inner_learning_rate: float,
    inner_optimizer: InnerOptimizer | None = None,
    for_languages: Sequence[Language] | None = None,
    all_reduce: AllReduce | None = None,
    loss_scale: Tensor | None = None,
    precision: torch.dtype | None = None,
    **options: Unpack[OuterStepKeywords],
) -> MetaGradients:
    """Compute the gradient of the validation loss after a virtual step of the shared weights.

    With g_i = ∇θ L_i^train(θ, φ_i), θ'_i = θ − β Δ(g_i) and D_i = ∂Δ/∂g at g_i (Δ(g) = g and D = 1
    for plain SGD),

        v_i       = Σ_j w_ij ∇θ L_j^val(θ'_i, φ_j)
        direct_i  = w_ii ∇φ_i L_i^val(θ'_i, φ_i)
        indirect_i = −β ∇φ_i ⟨∇θ L_i^train(θ, φ_i), D_i v_i⟩     (v_i held constant)

    which is the gradient for φ_i of Σ_j w_ij L_j^val(θ'_i, φ_j): Algorithm 1 of Wang, Lipton and
    Tsvetkov (EMNLP 2020) with w_ij = 1/L. A language that is not trained on takes no step of its
    own: its direct part is the mean over the steps of the training languages.

    No graph outlives one language. θ is moved in place and put back bit for bit; no parameter,
    gradient buffer or optimizer is touched. Passes of one loss replay the same random numbers
    (dropout).

    Args:
        train_losses: L_i^train of each language: a function without arguments that evaluates it at
            the present values of the parameters, or several of them (micro-batches) whose sum it
            is. An empty sequence says that a language has no loss, since its rows have no label: L
            is the number of the other languages, and the indirect part of this one is absent.
        meta_losses: L_j^val of each language, likewise: of the languages of `train_losses`, or of
            those that `meta_languages` names. A language without a loss does not count in Σ_j, and
            its direct part is absent.
        shared: θ, by name.
        language: φ_l of each language, by name; may be empty for a language without parameters of
            its own.
        inner_learning_rate: β.
        inner_optimizer: Δ; default `SGD()`, the paper's.
        for_languages: The languages whose meta-gradients are wanted; default all of both roles. The
            others still count in the validation loss, and in `.shared` unless the look-ahead is per
            language.
        all_reduce: Sums a flat tensor over processes in place, as `torch.distributed.all_reduce`
            does. The losses must then be the shares of each process in the loss of the global
            batch.
        loss_scale: A factor, 0-d, applied to the losses of backward passes and divided out of
            everything that is returned; fp16 needs it.
        precision: The dtype in which the losses are evaluated, if it is lower than that of θ, as
            under autocast; the radius of finite differences depends on it.
        **options: The fields of `MetaOptions`, and
            `preset`: `"paper"` or `"fast"`; options passed beside it override it.
            `seed`: the seed of the draws of languages under `meta_languages_per_step` and
            `mixed_languages` (default 0); the same on every process, another in each step.
            `train_gradients`: whether to return ∇φ_l L_l^train too (`.train`, default `True`),
            which has the size of all φ.
            `surgery`: a `Surgery`, the same in every step, makes `.shared` a weighted sum of the
            training gradients in place of their mean; the virtual step stays as it is.
            `step_weights`: weights of the training losses in `.shared` (`StepWeights`); by default,
            the mean.

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
        >>> problem = {"en": loss}, {"en": loss}, {"w": theta}, {"en": {"a": phi}}
        >>> step = meta_gradient(*problem, inner_learning_rate=0.1, preset="paper")
        >>> step.direct["en"]["a"]
        tensor([1.2800, 1.2800])
        >>> step.indirect["en"]["a"]
        tensor([-0.6400, -0.6400])
    """
    settings = outer_step_settings(**options)
    chosen = settings.options
    check_surgery(settings, for_languages)
    check_one_weighing(settings.surgery, settings.step_weights)
    check_validation(settings.step_weights, chosen)
    device = check_inputs(train_losses, meta_losses, shared, language, chosen)

    theta = list(shared.values())
    languages = list(dict.fromkeys([*train_losses, *meta_losses]))
    wanted = languages if for_languages is None else list(for_languages)

    # A language without any loss counts for nothing, and no gradient is taken for it.
    lacking = without_loss(train=train_losses, meta=meta_losses)
    counting = {*with_loss(train_losses), *with_loss(meta_losses)}
    targets = [key for key in wanted if key in counting]

    lookahead = shared_lookahead
    if chosen.lookahead == "per_language":
        lookahead = per_language_lookahead

    reduce = Reduce(all_reduce)
    combination = combining(
        settings.surgery,
        shared,
        with_loss(train_losses),
        reduce,
        of=len(train_losses),
        summed=True,
    )
    shares = shares_of(settings.step_weights, shared, with_loss(train_losses))
    mixed = drawn_languages(with_loss(train_losses), chosen.mixed_languages, settings.seed)

    with differentiating(every_parameter(shared, language), loss_scale) as differentiate:
        problem = Problem(
            train={key: replayed(loss, device) for key, loss in train_losses.items()},
            meta={key: replayed(loss, device) for key, loss in meta_losses.items()},
            shared=theta,
            language={key: list(language[key].values()) for key in languages},
            options=chosen,
            learning_rate=inner_learning_rate,
            inner=inner_optimizer or SGD(),
            product=chosen.product(precision),
            train_gradients=settings.train_gradients,
            weights=validation_weights(languages, with_loss(meta_losses), chosen, settings.seed),
            differentiate=differentiate,
            reduce=reduce,
            combination=combination,
            shares=shares,
            mixed=mixed,
        )

        # The anchor is the inner context: θ is back before anything else is put back.
        with anchored(theta, cpu_offload=chosen.cpu_offload) as anchor:
            collected = lookahead(problem, targets, anchor)
        collected = collected.combined(problem)

    names = {key: list(language[key]) for key in targets}
    return collected.result(list(shared), names, chosen, lacking, shares)
