"""The step that looks ahead to the next one with all rows, and how near it a sample comes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

from torch import Tensor
from torch.optim import Optimizer

from hf_meta_adapters._typing import AllReduce, Autocast, Language, Loss
from hf_meta_adapters.meta import MetaGradients
from hf_meta_adapters.meta.kept_step import KeptStep
from hf_meta_adapters.meta.next_step import next_step_gradient
from hf_meta_adapters.meta.options import MetaOptionKeywords, meta_options
from hf_meta_adapters.meta.remembered_losses import remembered
from hf_meta_adapters.meta.sample_agreement import SampleAgreement
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps._batch_losses import train_losses
from hf_meta_adapters.steps._outer_problem import check_batches
from hf_meta_adapters.steps._same_step import check_same_step
from hf_meta_adapters.steps.losses import Batches, LossFunction
from hf_meta_adapters.steps.step_context import StepContext

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Unpack

__all__ = ["compared_next_step"]


def compared_next_step(
    model: LanguageAdapterModel,
    train_batches: Mapping[Language, Batches],
    *,
    optimizer: Optimizer,
    kept: KeptStep | None = None,
    loss_function: LossFunction | None = None,
    autocast: Autocast = nullcontext,
    all_reduce: AllReduce | None = None,
    loss_scale: Tensor | None = None,
    seed: int = 0,
    **options: Unpack[MetaOptionKeywords],
) -> tuple[MetaGradients, SampleAgreement | None]:
    """Compute `next_step` with all rows, and beside it the meta-gradient with a sample of them.

    The mixed product is that of the rows of the step before, so two steps in a row are compared
    ones: the first keeps all rows and the sample, the second takes the products of both. Each costs
    a training pass more than `next_step`, and the second the products of all rows.

    Args:
        model: As for `next_step`.
        train_batches: As for `next_step`.
        optimizer: As for `next_step`.
        kept: As for `next_step`, or what `compared_next_step` has kept.
        loss_function: As for `next_step`.
        autocast: As for `next_step`.
        all_reduce: As for `next_step`.
        loss_scale: As for `next_step`.
        seed: As for `next_step`.
        **options: As for `next_step`; `mixed_rows` is the share of the sample that is kept.

    Returns:
        The gradients, with all rows that were kept, and how far those with the sample agree with
        them; `None` where no sample was kept beside all rows, or the optimizer has skipped its
        step.

    Raises:
        ConfigurationError: As by `next_step`.
        LanguageError: As by `next_step`.
        DataError: As by `next_step`.
    """
    check_batches(model, train_batches)
    check_same_step(
        model,
        all_reduce,
        {
            "the function": "compared_next_step",
            "the languages of the training batches": list(train_batches),
            "the languages of the meta batches": None,
            "the options": [seed, kept is not None, *options.items()],
        },
    )
    options["lookahead"] = "next"
    share = meta_options(**options).mixed_rows
    context = StepContext(loss_function, autocast, all_reduce, loss_scale)

    before = None if kept is None else kept.of_samples()
    every = list(dict.fromkeys([*train_batches, *(kept.passes if kept is not None else ())]))
    train = remembered(train_losses(model, train_batches, context, share), model.device)

    def gradient(
        losses: Mapping[Language, Sequence[Loss]], kept: KeptStep | None, share: float
    ) -> MetaGradients:
        given: MetaOptionKeywords = {**options, "mixed_rows": share}
        return next_step_gradient(
            losses,
            model.shared_parameters(),
            {key: model.language_parameters(key) for key in every},
            optimizer=optimizer,
            kept=kept,
            all_reduce=all_reduce,
            loss_scale=loss_scale,
            precision=context.precision(model.device),
            seed=seed,
            **given,
        )

    # All rows first: they draw the random numbers of the step.
    whole = gradient({key: list(own) for key, own in train.items()}, kept, 1.0)
    sampled = gradient(train, before, share)

    if whole.kept is not None and sampled.kept is not None:
        whole.kept.add_samples(sampled.kept)

    agreement = None
    if before is not None and before.derivative is not None:
        scales = [one.scale for one in before.passes.values()]
        agreement = SampleAgreement.of(sampled.language, whole.language, scales)
    return whole, agreement
