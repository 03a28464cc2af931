"""One outer step on a model with languages: batches in, gradients out; no optimizer is touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from hf_meta_adapters._typing import Batch, Language, Parameters
from hf_meta_adapters.errors import (
    ConfigurationError,
    DataError,
    check_known_language,
    check_languages,
)
from hf_meta_adapters.meta import (
    SGD,
    Adam,
    InnerOptimizer,
    JointGradients,
    MetaGradients,
    fidelity,
    joint_gradient,
    meta_gradient,
    meta_options,
)
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.language_groups import Groups
from hf_meta_adapters.steps.losses import LossFunction, autocast_dtype, batch_losses
from hf_meta_adapters.steps.sharding import reshard

Batches = Batch | Sequence[Batch]


def meta_step(
    model: LanguageAdapterModel,
    train_batches: Mapping[Language, Batches],
    meta_batches: Mapping[Language, Batches],
    *,
    inner_learning_rate: float,
    inner_optimizer: str | InnerOptimizer = "sgd",
    optimizer: torch.optim.Optimizer | None = None,
    for_languages: Sequence[Language] | None = None,
    loss_function: LossFunction | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    all_reduce: Callable[[Tensor], None] | None = None,
    loss_scale: Tensor | None = None,
    train_gradients: bool = True,
    languages_per_pass: int = 1,
    seed: int = 0,
    preset: str | None = None,
    **options: Any,
) -> MetaGradients:
    """Compute the meta-gradients of every φ_l and the training gradient of θ from one batch per language and role.

    The outer step of Algorithm 1 (Wang, Lipton and Tsvetkov, EMNLP 2020); `meta.meta_gradient` has
    the equations. Use it in a loop of your own, for example with Accelerate; `MetaAdapterTrainer`
    uses it too. θ, φ, `.grad`, and the language that was set are afterwards as they were.

    Args:
        model: The model; its training mode (dropout) is left as it is.
        train_batches: For each language of the step a batch of its training text, or several
            (gradient accumulation); several count by their labels, so that k batches give the
            gradient of one that is k times as large.
        meta_batches: Likewise of its held-out text.
        inner_learning_rate: β, the size of the virtual step.
        inner_optimizer: `"sgd"` (the paper's), `"adam"` (the step that `optimizer` would take) or
            an `InnerOptimizer`.
        optimizer: The optimizer of θ; needed by `inner_optimizer="adam"`, and only read.
        for_languages: The languages whose meta-gradients are wanted; default all of
            `train_batches`.
        loss_function: `(model, batch) -> loss`, a mean over the labels of the batch; default the
            loss that the model returns.
        autocast: Makes the context in which losses are evaluated, such as `accelerator.autocast`.
        all_reduce: Sums a flat tensor over processes in place, on several processes; each then
            passes its own part of every batch.
        loss_scale: A factor, 0-d, of what goes backward, divided out of all that is returned; fp16
            needs it: the scale of a `torch.amp.GradScaler`.
        train_gradients: Whether the training gradients of φ are wanted too (`.train`), which are
            the size of all φ.
        languages_per_pass: How many languages share a forward pass, each row through the φ of its
            language, where method and loss allow it (see `RoutedLoss`; pass one as `loss_function`,
            else it is made and checked in each step). The gradients are the same without dropout;
            memory grows with the number of rows in a pass.
        seed: Of the draw of languages under `meta_languages_per_step`; give another in each step.
        preset: `"paper"` or `"fast"`; options given beside it win.
        **options: See `meta.MetaOptions`.

    Returns:
        The gradients by parameter name, their direct and indirect parts, the losses and the meter.

    Raises:
        ConfigurationError: If options, θ and optimizer cannot work together.
        LanguageError: If a language is unknown to the model or the step, or misses its meta batch.
        DataError: If a language has no batch.

    Example:
        >>> import torch
        >>> from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM
        >>> from hf_meta_adapters import BottleneckConfig, get_language_model
        >>> base = XLMRobertaForMaskedLM(XLMRobertaConfig(vocab_size=99, hidden_size=8, num_hidden_layers=1,
        ...                              num_attention_heads=1, intermediate_size=8))
        >>> model = get_language_model(base, BottleneckConfig(bottleneck_size=2), languages=["en", "sw"])
        >>> words = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[5, 6, 7]])}
        >>> batches = {"en": words, "sw": words}
        >>> step = meta_step(model, batches, batches, inner_learning_rate=0.01)
        >>> sorted(step.language)
        ['en', 'sw']
    """
    for key in [] if for_languages is None else check_languages(for_languages):
        check_known_language(key, train_batches, what="this step")
    context: dict[str, Any] = {
        "loss_function": loss_function,
        "autocast": autocast,
        "all_reduce": all_reduce,
    }
    given: dict[str, Any] = {
        "inner_learning_rate": inner_learning_rate,
        "inner_optimizer": _inner_optimizer(
            inner_optimizer, optimizer, list(model.shared_parameters().values())
        ),
        "all_reduce": all_reduce,
        "loss_scale": loss_scale,
        "train_gradients": train_gradients,
        "precision": autocast_dtype(autocast, model.device),
        "seed": seed,
    }
    if languages_per_pass != 1:
        _check(model, train_batches, meta_batches)
        groups = Groups(model, list(train_batches), languages_per_pass, **context)
        given |= {"for_languages": for_languages, "options": meta_options(preset, **options)}
        return groups.meta_gradient(train_batches, meta_batches, **given)
    train, meta, shared, own = _problem(model, train_batches, meta_batches, context)
    given |= {"for_languages": for_languages, "preset": preset, **options}
    return meta_gradient(train, meta, shared, own, **given)


def meta_fidelity(
    model: LanguageAdapterModel,
    train_batches: Mapping[Language, Batches],
    meta_batches: Mapping[Language, Batches],
    *,
    inner_learning_rate: float,
    inner_optimizer: str | InnerOptimizer = "sgd",
    optimizer: torch.optim.Optimizer | None = None,
    loss_function: LossFunction | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    all_reduce: Callable[[Tensor], None] | None = None,
    loss_scale: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Compute the cosine between the meta-gradient that `meta_step` would give and the exact one of the paper.

    The exact one is that of `meta_gradient="exact", lookahead="per_language"` on the same batches,
    with the same random numbers. It costs about L² + 3L passes for L languages; a few rows of a few
    languages say enough.

    Args:
        model: As for `meta_step`.
        train_batches: As for `meta_step`.
        meta_batches: As for `meta_step`.
        inner_learning_rate: As for `meta_step`.
        inner_optimizer: As for `meta_step`.
        optimizer: As for `meta_step`.
        loss_function: As for `meta_step`.
        autocast: As for `meta_step`.
        all_reduce: As for `meta_step`.
        loss_scale: As for `meta_step`.
        **options: The setting to be checked: `preset`, `seed`, and those of `meta.MetaOptions`.

    Returns:
        The cosine, 0-d. Parameters, gradients and the random state are afterwards as they were, up
        to the random numbers of one evaluation.

    Raises:
        RuntimeError: If an operation of the model has no second derivative.

    Example:
        >>> from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM
        >>> from hf_meta_adapters import BottleneckConfig, get_language_model
        >>> base = XLMRobertaForMaskedLM(XLMRobertaConfig(vocab_size=99, hidden_size=8, num_hidden_layers=1,
        ...                              num_attention_heads=1, intermediate_size=8))
        >>> model = get_language_model(base, BottleneckConfig(bottleneck_size=2), languages=["en", "sw"])
        >>> words = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[5, 6, 7]])}
        >>> batches = {"en": words, "sw": words}
        >>> float(meta_fidelity(model, batches, batches, inner_learning_rate=0.01, preset="fast")) > 0.99
        True
    """
    context = {"loss_function": loss_function, "autocast": autocast, "all_reduce": all_reduce}
    return fidelity(
        *_problem(model, train_batches, meta_batches, context),
        inner_learning_rate=inner_learning_rate,
        inner_optimizer=_inner_optimizer(
            inner_optimizer, optimizer, list(model.shared_parameters().values())
        ),
        all_reduce=all_reduce,
        loss_scale=loss_scale,
        precision=autocast_dtype(autocast, model.device),
        **options,
    )


def joint_step(
    model: LanguageAdapterModel,
    train_batches: Mapping[Language, Batches],
    *,
    loss_function: LossFunction | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    all_reduce: Callable[[Tensor], None] | None = None,
    loss_scale: Tensor | None = None,
    languages_per_pass: int = 1,
) -> JointGradients:
    """Compute the gradient of the mean training loss of the step's languages for θ and every φ_l: joint training.

    Args:
        model: The model.
        train_batches: As for `meta_step`.
        loss_function: As for `meta_step`.
        autocast: As for `meta_step`.
        all_reduce: As for `meta_step`.
        loss_scale: As for `meta_step`.
        languages_per_pass: As for `meta_step`.

    Returns:
        The gradients by parameter name, and the losses.

    Raises:
        LanguageError: If a language is unknown to the model.
        DataError: If a language has no batch.

    Example:
        >>> import torch
        >>> from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM
        >>> from hf_meta_adapters import get_language_model
        >>> base = XLMRobertaForMaskedLM(XLMRobertaConfig(vocab_size=99, hidden_size=8, num_hidden_layers=1,
        ...                              num_attention_heads=1, intermediate_size=8))
        >>> model = get_language_model(base, None, languages=["en", "sw"])
        >>> words = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[5, 6, 7]])}
        >>> step = joint_step(model, {"en": words, "sw": words})
        >>> set(step.shared) <= set(model.shared_parameters())
        True
    """
    _check(model, train_batches)
    context: dict[str, Any] = {
        "loss_function": loss_function,
        "autocast": autocast,
        "all_reduce": all_reduce,
    }
    given: dict[str, Any] = {"all_reduce": all_reduce, "loss_scale": loss_scale}
    if languages_per_pass != 1:
        return Groups(model, list(train_batches), languages_per_pass, **context).joint_gradient(
            train_batches, **given
        )
    losses = batch_losses(model, train_batches, **context)
    own = {key: model.language_parameters(key) for key in train_batches}
    return joint_gradient(losses, model.shared_parameters(), own, **given)


def _problem(
    model: LanguageAdapterModel,
    train_batches: Mapping[Language, Batches],
    meta_batches: Mapping[Language, Batches],
    context: dict[str, Any],
) -> tuple[Any, Any, Parameters, Mapping[Language, Parameters]]:
    """The losses and parameters of an outer step."""
    _check(model, train_batches, meta_batches)
    train, meta = (
        batch_losses(model, batches, **context) for batches in (train_batches, meta_batches)
    )
    own = {key: model.language_parameters(key) for key in {**train_batches, **meta_batches}}
    return train, meta, model.shared_parameters(), own


def _check(model: LanguageAdapterModel, *roles: Mapping[Language, Batches]) -> None:
    reshard(model)
    for batches in roles:
        for key, given in batches.items():
            check_known_language(key, model.languages)
            if not given:
                raise DataError(
                    f"Every language of a step needs a batch. Found none for {key!r}. Leave the"
                    " language out."
                )


def _inner_optimizer(
    name: str | InnerOptimizer, optimizer: torch.optim.Optimizer | None, shared: list[Tensor]
) -> InnerOptimizer:
    if isinstance(name, InnerOptimizer):
        return name
    if name == "sgd":
        return SGD()
    if name != "adam":
        raise ConfigurationError(
            f'`inner_optimizer` must be "sgd", "adam" or an InnerOptimizer. Found {name!r}.'
        )
    if optimizer is None:
        raise ConfigurationError('`inner_optimizer="adam"` reads the state of the optimizer of θ. Found none. Write '
                                 "`meta_step(..., optimizer=optimizer)`.")  # fmt: skip
    return Adam.of(optimizer, shared)
