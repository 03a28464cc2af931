"""The outer step whose look-ahead is the step that the optimizer really takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer

from hf_meta_adapters._typing import AllReduce, Language, MicroBatches, Parameters
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta._anchor import Anchor, anchored
from hf_meta_adapters.meta._collected import Collected
from hf_meta_adapters.meta._differentiating import differentiating
from hf_meta_adapters.meta._inputs import check_next_inputs, every_parameter
from hf_meta_adapters.meta._kept_pass import KeptPass
from hf_meta_adapters.meta._mixed_product import MixedRows
from hf_meta_adapters.meta._mixed_samples import drawn_languages
from hf_meta_adapters.meta._optimizer_derivative import check_optimizer
from hf_meta_adapters.meta._problem import Problem
from hf_meta_adapters.meta._reduce import Reduce
from hf_meta_adapters.meta._replay import replayed, with_loss, without_loss
from hf_meta_adapters.meta._sgd import SGD
from hf_meta_adapters.meta._shares import Shares
from hf_meta_adapters.meta._train_pass import TrainPass
from hf_meta_adapters.meta.kept_step import KeptStep
from hf_meta_adapters.meta.options import MetaOptionKeywords, meta_options
from hf_meta_adapters.meta.result import MetaGradients
from hf_meta_adapters.meta.vectors import (
    Vector,
    absent,
    local,
    mapped,
    present,
    scaled,
    sharded_as,
    times,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["next_step_gradient"]


def next_step_gradient(
    train_losses: Mapping[Language, MicroBatches],
    shared: Parameters,
    language: Mapping[Language, Parameters],
    *,
    optimizer: Optimizer,
    kept: KeptStep | None = None,
    all_reduce: AllReduce | None = None,
    loss_scale: Tensor | None = None,
    precision: torch.dtype | None = None,
    seed: int = 0,
    **options: Unpack[MetaOptionKeywords],
) -> MetaGradients:
    """Compute the gradient of the training loss after the step that the optimizer took before.

    With the training loss of step t for the loss of the virtual step, the optimizer's own step
    θ_{t+1} = θ_t − U(g_t), g_t = 1/L Σ_i ∇θ L_i^t(θ_t, φ_i,t), for the virtual step itself, and the
    training loss of step t + 1 for the validation loss,

        v        = 1/L Σ_j ∇θ L_j^{t+1}(θ_{t+1}, φ_j,t+1)     (which step t + 1 computes anyway)
        direct_i = 1/L ∇φ_i L_i^{t+1}(θ_{t+1}, φ_i,t+1)
        indirect_i = −1/L ∇φ_i ⟨∇θ L_i^t(θ_t, φ_i,t), D_t v⟩,     D_t = ∂U/∂g at g_t.

    Nothing is computed twice: a step takes one training pass, and one mixed product on the batches
    of the step before.

    It differs from Algorithm 1 of Wang, Lipton and Tsvetkov (EMNLP 2020) in four ways. The step of
    θ is the optimizer's (Adam's, with momentum, at the rate of the schedule) on all languages, not
    one of plain SGD on language i. The validation text is training text that θ_{t+1} has not seen
    in this step. φ has moved as well: the indirect part is taken at φ_t, and updates φ_{t+1}. And
    it is the gradient of one step, which comes one step late. The factor by which gradients are
    clipped is held constant, and weight decay does not depend on g.

    Args:
        train_losses: L_i^{t+1} of each language, as for `meta_gradient`.
        shared: θ, by name.
        language: φ_l of each language of this step and of the previous one, by name.
        optimizer: The optimizer that updates θ: Adam, AdamW or SGD of PyTorch. The step that it
            takes after this call is observed by a hook.
        kept: `.kept` of the result in step t. Without it, or if the optimizer has skipped its step
            (an overflow of fp16), there is no indirect part.
        all_reduce: As for `meta_gradient`.
        loss_scale: As for `meta_gradient`.
        precision: As for `meta_gradient`.
        seed: The seed of the draw of languages under `mixed_languages`; the same on every
            process, another in each step.
        **options: The fields of `MetaOptions`; `lookahead` is `"next"`.

    Returns:
        The gradients, their parts, the losses, the meter, and `.kept` for the next call. `.train`
        is equal to `.direct`. A
        language of step t that is not in this step has an indirect part alone, and one that was not
        in step t a direct part alone.

    Raises:
        ConfigurationError: If options, parameters or the optimizer cannot work, or the optimizer
            has taken several steps since the previous one.
        LanguageError: If there is no language, or one has no φ.

    Example:
        >>> import torch
        >>> theta, phi = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
        >>> optimizer = torch.optim.SGD([theta, phi], lr=0.1)
        >>> loss = lambda: (theta * phi).square().sum()
        >>> problem = {"en": loss}, {"w": theta}, {"en": {"a": phi}}
        >>> first = next_step_gradient(*problem, optimizer=optimizer)
        >>> theta.grad = first.shared["w"]
        >>> optimizer.step()
        >>> second = next_step_gradient(*problem, optimizer=optimizer, kept=first.kept)
        >>> second.direct["en"]["a"]
        tensor([1.2800, 1.2800])
        >>> second.indirect["en"]["a"]
        tensor([-0.6400, -0.6400])
    """
    options["lookahead"] = "next"
    chosen = meta_options(**options)
    device = check_next_inputs(train_losses, shared, language, chosen)
    theta = list(shared.values())
    check_optimizer(optimizer, theta)

    before = _taken(kept)
    with (
        differentiating(every_parameter(shared, language), loss_scale) as differentiate,
        anchored(theta) as anchor,
    ):
        problem = Problem(
            train={key: replayed(loss, device) for key, loss in train_losses.items()},
            meta={},
            shared=theta,
            language={key: list(parameters.values()) for key, parameters in language.items()},
            options=chosen,
            learning_rate=1.0,
            inner=SGD(),
            product=chosen.product(precision),
            train_gradients=True,
            weights={},
            differentiate=differentiate,
            reduce=Reduce(all_reduce),
            shares=Shares.equal(with_loss(train_losses)),
            mixed=drawn_languages(with_loss(train_losses), chosen.mixed_languages, seed),
        )

        collected = Collected.empty(problem)
        passes: dict[Language, KeptPass] = {}
        for key in problem.trained:
            kept_pass = _train_pass(collected, problem, key)
            if key in problem.mixed:
                passes[key] = kept_pass

        _add_parts(collected, problem, before, anchor)
        now = KeptStep(passes, anchor.start, collected.share * problem.mixed_factor)

    now.watch(optimizer, theta, collected.shared)
    names = {key: list(language[key]) for key in collected.direct}
    lacking = without_loss(train=train_losses)
    result = collected.result(list(shared), names, chosen, lacking, problem.shares)
    return replace(result, kept=now)


def _taken(kept: KeptStep | None) -> KeptStep | None:
    """The previous step, if it was taken."""
    if kept is None:
        return None

    if kept.updates > 1:
        raise ConfigurationError(
            '`lookahead="next"` needs exactly one step of the optimizer between two calls. Found'
            f" {kept.updates}. Compute the gradients once for each step of the optimizer, and pass"
            " `.kept` of the last result."
        )

    if kept.derivative is None:
        return None
    return kept


def _train_pass(collected: Collected, problem: Problem, key: Language) -> KeptPass:
    """Add the training pass of a language, and return what its product needs in the next step."""
    # A function of its own: the gradient of θ must not live on while the next pass is taken.
    train = problem.train_pass(key)
    (gradient,) = problem.reduce.summed((train.shared_gradient, problem.shared))
    collected.add_train(problem, key, train, gradient)

    own = train.without_gradients(keep_product=problem.product.needs_train_gradient)
    gradient = mapped(own.product_gradient, local)
    point = [local(entry.detach()).clone() for entry in train.language]
    return KeptPass(own.losses, gradient, point, own.scale)


def _add_parts(
    collected: Collected, problem: Problem, kept: KeptStep | None, anchor: Anchor
) -> None:
    """Add the direct and the indirect parts, and the losses at θ_{t+1}."""
    for key in collected.train:
        collected.direct[key] = collected.weighted(key)
        collected.indirect[key] = absent(problem.language[key])
        collected.meta_losses[key] = [collected.train_loss[key]]

    if kept is None or problem.options.meta_gradient == "first_order":
        return

    vector = _sharded(times(mapped(collected.shared, local), kept.derivative), problem.shared)
    if not present(vector):
        return

    anchor.start_from(kept.point)
    with problem.product.along(vector, anchor) as product:
        for key in kept.passes:
            collected.direct.setdefault(key, absent(problem.language[key]))
            collected.indirect[key] = _indirect_part(problem, kept, key, product)


def _indirect_part(
    problem: Problem, kept: KeptStep, key: Language, product: Callable[[TrainPass], MixedRows]
) -> Vector:
    """−1/L ∇φ⟨∇θ L^t(θ_t, φ_t), D_t v⟩, summed over processes."""
    phi = problem.language[key]

    # φ goes back, too: with what it has learned since, it would be the product of another pass.
    with anchored(phi) as own:
        own.rebase(kept.passes[key].point)

        at = TrainPass(
            losses=kept.passes[key].losses,
            shared=problem.shared,
            language=phi,
            differentiate=problem.differentiate,
            value=torch.zeros(()),
            shared_gradient=absent(problem.shared),
            language_gradient=absent(phi),
            product_gradient=_sharded(kept.passes[key].gradient, phi),
            scale=kept.passes[key].scale,
        )
        rows = product(at)

    total = scaled(rows.language, -kept.share)
    problem.reduce((total, phi))
    return total


def _sharded(vector: Vector, parameters: Sequence[Tensor]) -> Vector:
    """The parts that this process holds, as a vector that is sharded as its parameters are."""
    whole: Vector = []
    for part, parameter in zip(vector, parameters, strict=True):
        whole.append(None if part is None else sharded_as(part, parameter))
    return whole
