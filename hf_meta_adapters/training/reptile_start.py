"""A start for new languages that few steps suit: Reptile over the languages of a family."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

import torch
from torch import nn
from tqdm.auto import tqdm

from hf_meta_adapters._typing import IGNORED_LABEL, Batch, Language
from hf_meta_adapters.anatomy.passes import device_of
from hf_meta_adapters.data.seeding import seeded
from hf_meta_adapters.errors import (
    ConfigurationError,
    DataError,
    NonFiniteLossError,
    check_known_language,
)
from hf_meta_adapters.meta.reptile import InnerLoop
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.losses import LossFunction
from hf_meta_adapters.steps.sparse_head import SparseHead

__all__ = ["REPTILE_START", "add_reptile_start"]

REPTILE_START = "x-reptile"
"""The language that holds the start. BCP 47 leaves tags that begin with `x-` to private use."""

_BETAS = (0.0, 0.999)
"""Adam without momentum, as in the paper."""


def add_reptile_start(
    model: LanguageAdapterModel,
    batches: Mapping[Language, Iterable[Batch]],
    *,
    language: Language = REPTILE_START,
    copy_from: Language | Mapping[Language, float] | None = None,
    rounds: int = 50,
    inner_steps: int = 5,
    inner_learning_rate: float = 1e-3,
    outer_rate: float = 1.0,
    loss_function: LossFunction | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[float]:
    """Add a φ from which k steps in any language of the family lead far (Nichol et al. 2018).

    A round takes the text of one language l and k steps of Adam from φ_0 to φ_k, with θ frozen;
    then φ_0 ← φ_0 + ε (φ_k − φ_0), where ε falls linearly to 0 over the rounds. Each language has
    as many rounds as any other, up to one.

    The start is a language of the model like any other, so that it is saved, published and loaded
    with the family, and `add_language(..., copy_from="x-reptile")` starts from it. No text is in
    this language: leave it out of what you train and score. θ, the other languages and the modes of
    modules stay as they are; call `model.train()` before for dropout.

    Args:
        model: The model.
        batches: Language → batches with labels that can be read again and again, such as a
            `DataLoader`; of languages of the model.
        language: The key of the start.
        copy_from: What the first φ_0 is, as for `add_language`; by default a fresh adapter.
        rounds: How often φ_0 is updated.
        inner_steps: k.
        inner_learning_rate: The rate of Adam, which begins anew in each round.
        outer_rate: ε of the first round.
        loss_function: Computes the loss from model and batch; by default that of the model, with
            its head at labelled positions only.
        seed: The seed of a fresh adapter, of the order of languages, and of what a collator draws.
        progress: Show a progress bar.

    Returns:
        The mean loss of each round.

    Raises:
        LanguageError: If the key is taken, or the model does not have a language of `batches`.
        ConfigurationError: If a number is not positive, or the languages have no adapters.
        DataError: If a language has no batch with labels.
        NonFiniteLossError: If a loss is NaN or infinite.

    Example:
        >>> from hf_meta_adapters.training.reptile_start import add_reptile_start
        >>> def prepare(model, loaders):  # {"en": DataLoader(...), "sw": DataLoader(...)}
        ...     add_reptile_start(model, loaders)
        ...     model.add_language("yo", copy_from="x-reptile")
    """
    numbers = {
        "rounds": rounds,
        "inner_steps": inner_steps,
        "inner_learning_rate": inner_learning_rate,
        "outer_rate": outer_rate,
    }
    languages = _check(model, batches, numbers)

    with seeded(seed):
        model.add_language(language, copy_from=copy_from)
        try:
            compute = loss_function or SparseHead(model)
            streams = {key: _endless(batches[key], key) for key in languages}
            parameters = list(model.language_parameters(language).values())

            losses = []
            order = _order(languages, rounds, seed)
            for number, key in enumerate(tqdm(order, disable=not progress, desc="Reptile")):
                loop = InnerLoop(parameters)
                with model.use_language(language):
                    losses.append(
                        _steps(
                            *(model, parameters, streams[key], compute),
                            steps=inner_steps,
                            rate=inner_learning_rate,
                        )
                    )
                loop.end(outer_rate * (1 - number / rounds))
        except BaseException:
            # what is half trained must not be taken for a start later on
            with suppress(ConfigurationError):
                model.remove_language(language)
            raise
    return losses


def _steps(
    model: LanguageAdapterModel,
    parameters: Sequence[nn.Parameter],
    batches: Iterator[Batch],
    compute: LossFunction,
    *,
    steps: int,
    rate: float,
) -> float:
    """Take k steps in one language; return their mean loss."""
    optimizer = torch.optim.Adam(parameters, lr=rate, betas=_BETAS)
    device = device_of(model)
    total = 0.0
    for _ in range(steps):
        batch = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in next(batches).items()
        }
        loss = compute(model, batch)
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"The loss must be finite. Found {loss.item()}. Lower `inner_learning_rate`, or"
                " look for batches without labels."
            )

        # not `backward`: the gradients of θ and of other languages are left alone
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()
        total += float(loss.detach())
    return total / steps


def _order(languages: Sequence[Language], rounds: int, seed: int) -> list[Language]:
    """The language of each round: all of them in random order, again and again."""
    generator = random.Random(seed)
    order: list[Language] = []
    while len(order) < rounds:
        order += generator.sample(languages, len(languages))
    return order[:rounds]


def _endless(batches: Iterable[Batch], language: Language) -> Iterator[Batch]:
    """The batches of a language, from the beginning again when they end."""
    if isinstance(batches, Mapping):
        batches = [batches]

    while True:
        is_empty = True
        for batch in batches:
            # a short text may have no masked token, and its mean loss would be NaN
            labels = batch.get("labels")
            if isinstance(labels, torch.Tensor) and not (labels != IGNORED_LABEL).any():
                continue
            is_empty = False
            yield batch

        if is_empty:
            raise DataError(
                "Batches with labels must be there to be read again and again. Found none for"
                f" {language!r}. Pass a `DataLoader` or a list (a generator can be read once)."
            )


def _check(
    model: LanguageAdapterModel,
    batches: Mapping[Language, Iterable[Batch]],
    numbers: Mapping[str, float],
) -> list[Language]:
    if model.share_adapter or model.backend.name == "none":
        raise ConfigurationError(
            "A start is an adapter of a language. Found a model whose languages have none of their"
            " own. Create it with a configuration of adapters, and without `share_adapter`."
        )

    wrong = {name: value for name, value in numbers.items() if not value > 0}
    if wrong:
        raise ConfigurationError(
            f"Numbers of steps and rates must be positive. Found {wrong}. Leave them out for the"
            " defaults."
        )

    languages = [check_known_language(language, model.languages) for language in batches]
    if not languages:
        raise DataError(
            "Reptile needs text of the languages of the model. Found none. Pass for example"
            ' `{"en": DataLoader(...), "sw": DataLoader(...)}`.'
        )
    return languages
