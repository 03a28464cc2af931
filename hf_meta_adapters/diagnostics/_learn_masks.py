"""Which weights does a language need? Pruning masks learned per language and seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from torch import Tensor, nn
from tqdm.auto import tqdm

from hf_meta_adapters._typing import Language
from hf_meta_adapters.anatomy.layers import parameter_kind
from hf_meta_adapters.diagnostics._gate_layout import Granularity, gate_layout
from hf_meta_adapters.diagnostics._gated_loss import GatedLoss
from hf_meta_adapters.diagnostics._hard_concrete import deterministic_gates
from hf_meta_adapters.diagnostics._language_losses import (
    Batches,
    LossFunction,
    iterate_batches,
    preserved_state,
    select_parameters,
)
from hf_meta_adapters.diagnostics._mask_training import MaskTraining, exact_mask, train_gates
from hf_meta_adapters.diagnostics.language_masks import LanguageMasks
from hf_meta_adapters.errors import ConfigurationError, check_languages

__all__ = ["learn_language_masks"]


def learn_language_masks(
    model: nn.Module,
    batches: Mapping[Language, Batches],
    *,
    sparsity: float,
    granularity: Granularity = "weight",
    seeds: Sequence[int] = (0, 1),
    steps: int = 500,
    learning_rate: float = 0.1,
    initial_keep_rate: float = 0.9,
    parameters: str | Iterable[str] | None = None,
    loss_function: LossFunction | None = None,
    progress: bool = False,
) -> LanguageMasks:
    """Return masks m that minimize `L_l(θ ⊙ m)` with a share `sparsity` of m zero.

    One mask for each language l and seed. Hard concrete L0 gates (Louizos, Welling and Kingma 2018)
    over frozen θ, one per weight, output neuron, attention head or module, as Wang, Lipton and
    Tsvetkov (2020) use them to find language-specific parameters. In place of a penalty, all gates
    are shifted by a common number after every update so that the *expected* sparsity rises linearly
    to `sparsity`, which it reaches half way. In the end the gates with the largest log α are kept,
    as many as give `sparsity`: exactly to one weight for weights, and to half the largest gate
    otherwise.

    Two seeds at least are needed for a conclusion: masks of two languages differ anyway, and differ
    *because* of the language only as far as they differ more than masks of two seeds. A mask is a
    local optimum, at which the search stops once the gates have closed: with half of the weights of
    two layers to prune at once it misses planted masks that are better, although it would stay at
    them had it started there. At a sparsity of 0.2 it finds them. Everything is computed in
    evaluation mode, and the weights are never written to.

    Args:
        model: Called as `model(**batch)`; see `gradient_conflict`.
        batches: For each language one batch, or an iterable of batches; they are kept in memory.
        sparsity: Share of the gated weights to prune, in (0, 1).
        granularity: `"weight"`, `"neuron"` (an output of a weight matrix), `"head"` (the query, key
            and value of an attention head, or of several heads that share a key and a value) or
            `"module"` (a weight matrix). With `"head"` no other weights are gated.
        seeds: Seeds of initial values, gates and the order of batches; one mask each.
        steps: Updates per mask. Too few leave masks undecided; check `prune_confidence`.
        learning_rate: Learning rate of Adam on log α.
        initial_keep_rate: Initial median of the gates, in (0, 1). Near 1 the search starts at the
            intact model.
        parameters: A regular expression to search for in the names, or names. By default those of
            the model's `shared_parameters()` (or all with `requires_grad`) that are matrices but
            not embeddings.
        loss_function: Called as `loss_function(model, batch)` in place of `model(**batch)`.
        progress: Show a progress bar.

    Returns:
        The masks.

    Raises:
        LanguageError: If a language key is malformed.
        ConfigurationError: If a setting is out of range, nothing is left to gate, or heads cannot
            be found.
        DataError: If a language has no batch, or the model returns no loss.
        NonFiniteLossError: If a loss is NaN or infinite.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 1)
        >>> batch = {"x": torch.eye(4), "y": model(torch.eye(4)).detach()}
        >>> def loss_function(model, batch):
        ...     return (model(batch["x"]) - batch["y"]).square().mean()
        >>> masks = learn_language_masks(
        ...     model,
        ...     {"en": batch},
        ...     sparsity=0.25,
        ...     seeds=(0,),
        ...     steps=20,
        ...     loss_function=loss_function,
        ... )
        >>> masks.sparsity("en", 0)
        0.25
    """
    languages = check_languages(batches)
    settings = MaskTraining(sparsity, steps, learning_rate, initial_keep_rate)
    _check(settings, granularity, seeds)

    selected = _gated_weights(model, parameters)
    layout = gate_layout(model, selected, granularity)
    # With a gate per head, only the weights that belong to heads have gates.
    weights = {name: selected[name] for name in layout.heads or selected}
    device = next(iter(weights.values())).device

    masks: dict[Language, dict[int, dict[str, Tensor]]] = {}
    confidence: dict[Language, dict[int, dict[str, float]]] = {}
    total = len(languages) * len(seeds) * steps
    with (
        preserved_state(model),
        tqdm(total=total, disable=not progress, desc="Masks", unit="step") as bar,
    ):
        for language in languages:
            masks[language], confidence[language] = {}, {}
            gated_loss = GatedLoss(model, weights, language, loss_function)
            # Kept, since training goes through them many times and a generator yields them once.
            text = list(iterate_batches(batches[language], language))

            for seed in seeds:
                bar.set_postfix_str(f"{language}, seed {seed}")
                log_alpha = train_gates(
                    gated_loss, layout, device, text, settings, seed=seed, on_step=bar.update
                )
                masks[language][seed] = exact_mask(log_alpha, layout, sparsity)
                confidence[language][seed] = {
                    name: _confidence(gate) for name, gate in layout.spread(log_alpha).items()
                }

    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    return LanguageMasks(languages, tuple(seeds), granularity, shapes, masks, confidence)


def _confidence(log_alpha: Tensor) -> float:
    """Return the mean of `|2 ẑ − 1|` over test-time gates ẑ: 1 if open or shut, 0 if half open."""
    return float((2 * deterministic_gates(log_alpha) - 1).abs().mean())


def _gated_weights(
    model: nn.Module, parameters: str | Iterable[str] | None
) -> dict[str, nn.Parameter]:
    """Return the weights that the user names, or all matrices but embeddings."""
    selected = select_parameters(model, parameters)
    if parameters is not None:
        return selected

    # Biases and norms are few, and an embedding belongs to a word, hence to certain languages.
    matrices = {
        name: parameter
        for name, parameter in selected.items()
        if parameter.dim() >= 2 and parameter_kind(name) != "embeddings"
    }
    if not matrices:
        raise ConfigurationError(
            "Masks need weight matrices other than embeddings. Found none among"
            f' {list(selected)[:3]} ... Name the weights, for example `parameters="weight"`.'
        )

    return matrices


def _check(settings: MaskTraining, granularity: str, seeds: Sequence[int]) -> None:
    shares = {
        "sparsity": settings.sparsity,
        "initial_keep_rate": settings.initial_keep_rate,
    }
    for name, share in shares.items():
        if not 0 < share < 1:
            raise ConfigurationError(
                f"`{name}` must be in (0, 1). Found {share}. Use for example 0.5."
            )

    if granularity not in get_args(Granularity):
        raise ConfigurationError(
            f"`granularity` must be one of {list(get_args(Granularity))}. Found {granularity!r}."
            ' Use for example "neuron".'
        )

    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigurationError(
            f"`seeds` must be different numbers. Found {list(seeds)}. Use for example (0, 1)."
        )

    if settings.steps < 1:
        raise ConfigurationError(
            f"`steps` must be at least 1. Found {settings.steps}. Use for example 500."
        )
    if settings.learning_rate <= 0:
        raise ConfigurationError(
            f"`learning_rate` must be positive. Found {settings.learning_rate}. Use for example"
            " 0.1."
        )
