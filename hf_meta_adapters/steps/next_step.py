"""The outer step that looks ahead by the optimizer's own step: batches in, gradients out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

from torch import Tensor
from torch.optim import Optimizer

from hf_meta_adapters._typing import AllReduce, Autocast, Language
from hf_meta_adapters.meta import MetaGradients
from hf_meta_adapters.meta.kept_step import KeptStep
from hf_meta_adapters.meta.next_step import next_step_gradient
from hf_meta_adapters.meta.options import MetaOptionKeywords, meta_options
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps._batch_losses import train_losses
from hf_meta_adapters.steps._outer_problem import check_batches
from hf_meta_adapters.steps._same_step import check_same_step
from hf_meta_adapters.steps.language_groups import LanguageGroups
from hf_meta_adapters.steps.losses import Batches, LossFunction
from hf_meta_adapters.steps.step_context import StepContext

if TYPE_CHECKING:
    from typing_extensions import Unpack


def next_step(
    model: LanguageAdapterModel,
    train_batches: Mapping[Language, Batches],
    *,
    optimizer: Optimizer,
    kept: KeptStep | None = None,
    loss_function: LossFunction | None = None,
    autocast: Autocast = nullcontext,
    all_reduce: AllReduce | None = None,
    loss_scale: Tensor | None = None,
    languages_per_pass: int = 1,
    seed: int = 0,
    **options: Unpack[MetaOptionKeywords],
) -> MetaGradients:
    """Compute the gradient of the training loss after the step that the optimizer took before.

    It is the meta-gradient whose virtual step is the real one, and whose validation text is that of
    the next training step: `lookahead="next"` of `MetaAdapterTrainer`. `meta.next_step` has the
    equations, and says where it differs from Algorithm 1 of Wang, Lipton and Tsvetkov (EMNLP 2020).
    A step takes the passes of joint training, and a product for φ alone on the batches of the step
    before. Use it in your own loop: compute, assign `.shared` and `.language` to `.grad`, let the
    optimizer step, and pass `.kept` of the result the next time.

    Args:
        model: The model; its training mode (dropout) is left as it is.
        train_batches: For each language of the step a batch of its training text, or several
            (gradient accumulation), as for `meta_step`.
        optimizer: The optimizer that updates θ: Adam, AdamW or SGD of PyTorch. A hook observes the
            step that it takes after this call.
        kept: `.kept` of the result in the step before; `None` in the first step, which then has no
            indirect part. It holds two copies of θ: drop it when it is not needed any more.
        loss_function: As for `meta_step`.
        autocast: As for `meta_step`.
        all_reduce: As for `meta_step`.
        loss_scale: As for `meta_step`.
        languages_per_pass: As for `meta_step`; the same in every step.
        seed: The seed of the draw of languages under `mixed_languages`; the same on every
            process, another one in each step.
        **options: The fields of `MetaOptions`, for example `indirect_ratio=1.0`.

    Returns:
        The gradients by parameter name, their direct and indirect parts, the losses, the meter, and
        `.kept` for the next call. `.train` is equal to `.direct`.

    Raises:
        ConfigurationError: If options, θ and optimizer cannot work together, or the optimizer has
            taken several steps since the previous one, or processes take different steps.
        LanguageError: If a language is unknown to the model.
        DataError: If a language has no batch.

    Example:
        >>> import torch
        >>> from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM
        >>> from hf_meta_adapters import BottleneckConfig, get_language_model
        >>> sizes = dict(vocab_size=99, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
        >>> base = XLMRobertaForMaskedLM(XLMRobertaConfig(intermediate_size=8, **sizes))
        >>> config = BottleneckConfig(bottleneck_size=2)
        >>> model = get_language_model(base, config, languages=["en", "sw"])
        >>> words = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[5, 6, 7]])}
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> batches, kept = {"en": words, "sw": words}, None
        >>> for _ in range(2):
        ...     step = next_step(model, batches, optimizer=optimizer, kept=kept)
        ...     for name, parameter in model.shared_parameters().items():
        ...         parameter.grad = step.shared.get(name)
        ...     for language, gradient in step.language.items():
        ...         for name, parameter in model.language_parameters(language).items():
        ...             parameter.grad = gradient.get(name)
        ...     optimizer.step()
        ...     kept = step.kept
        >>> float(step.meter.ratio) > 0
        True
    """
    check_batches(model, train_batches)
    given = {
        "the function": "next_step",
        "the languages of the training batches": list(train_batches),
        "the languages of the meta batches": None,
        "the options": [languages_per_pass, seed, kept is not None, *options.items()],
    }
    check_same_step(model, all_reduce, given)
    options["lookahead"] = "next"
    chosen = meta_options(**options)
    context = StepContext(loss_function, autocast, all_reduce, loss_scale)
    languages = list(train_batches)

    if kept is not None:
        # A language of the step before has an indirect part now, even if it is not in this one.
        for members in kept.groups.values():
            languages += [key for key in members if key not in languages]

    if languages_per_pass != 1:
        groups = LanguageGroups(model, list(train_batches), languages_per_pass, context)
        return groups.next_step_gradient(
            train_batches,
            chosen,
            {key: model.language_parameters(key) for key in languages},
            optimizer=optimizer,
            kept=kept,
        )

    return next_step_gradient(
        train_losses(model, train_batches, context, chosen.mixed_rows),
        model.shared_parameters(),
        {key: model.language_parameters(key) for key in languages},
        optimizer=optimizer,
        kept=kept,
        all_reduce=all_reduce,
        loss_scale=loss_scale,
        precision=context.precision(model.device),
        seed=seed,
        **options,
    )
