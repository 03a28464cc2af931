"""The losses of several languages from one forward pass, each row through the φ of its language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.losses import (
    IGNORED,
    LossFunction,
    label_count,
    model_loss,
    predicts_the_next_token,
)
from hf_meta_adapters.steps.sharding import reshard
from hf_meta_adapters.steps.sparse_head import SparseHead, decoder_inputs

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_RULE = "`languages_per_pass` over 1 puts the rows of several languages into one forward pass"
_REMEDY = "Write `languages_per_pass=1`."


@dataclass(frozen=True)
class RoutedBatch:
    """Batches of several languages as one.

    Args:
        batch: The tensors, rows of one language after those of another.
        languages: The languages, in this order.
        language_of_row: The language of each row.
        number_of_row: Its number among the languages, of shape (rows), on the device.
    """

    batch: Batch
    languages: tuple[Language, ...]
    language_of_row: list[Language]
    number_of_row: Tensor


class RoutedLoss:
    """Computes the losses of several languages in one forward pass, where the method can route rows.

    One large pass keeps an accelerator busier than many small ones. The activations of all its
    languages are alive at once: memory grows with the number of languages in a pass, which
    `languages_per_pass` of `meta_step` says.

    It is a `loss_function` of `meta_step` and `joint_step`. A model's own loss is a mean over all
    labels of a batch, and that of each language is wanted: so it is taken from the logits, as the
    mean cross-entropy over the labels of each language. The first batches are evaluated both ways,
    in evaluation mode and without gradients, and a model or a loss function that gives something
    else is refused.

    Args:
        model: The model.
        loss_function: What evaluates a batch of one language; default the loss that the model
            returns. With a `SparseHead`, this pass has a sparse head, too.

    Raises:
        ConfigurationError: If the method cannot route rows, in training, too.

    Example:
        >>> from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM
        >>> from hf_meta_adapters import BottleneckConfig, get_language_model
        >>> base = XLMRobertaForMaskedLM(XLMRobertaConfig(vocab_size=99, hidden_size=8, num_hidden_layers=1,
        ...                              num_attention_heads=1, intermediate_size=8))
        >>> model = get_language_model(base, BottleneckConfig(bottleneck_size=2), languages=["en", "sw"])
        >>> words = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[5, 6, -100]])}
        >>> loss = RoutedLoss(model)
        >>> loss.sums(model, loss.together(model, {"en": words, "sw": words})).shape
        torch.Size([2])
    """

    def __init__(
        self, model: LanguageAdapterModel, loss_function: LossFunction | None = None
    ) -> None:
        if not model.routes_rows:
            raise ConfigurationError(
                f"{_RULE}, each through the adapter of its language, as bottleneck adapters and"
                " LoRA can. Found "
                f'`{type(model.backend.config).__name__}` of the backend "{model.backend.name}",'
                " beside "
                f"{'a shared adapter' if model.shared_part is not None else 'no other adapter'}."
                f" {_REMEDY}"
            )
        self._evaluate = loss_function or model_loss
        self._head = loss_function if isinstance(loss_function, SparseHead) else None
        self._checked = False

    def __call__(self, model: LanguageAdapterModel, batch: Batch) -> Tensor:
        """The loss of a batch in the language that is set, 0-d."""
        return self._evaluate(model, batch)

    def together(
        self, model: LanguageAdapterModel, batches: Mapping[Language, Batch]
    ) -> RoutedBatch:
        """Put batches of several languages into one, shorter rows filled up on the right.

        Args:
            model: The model, whose config knows what fills up.
            batches: One for each language.

        Returns:
            The batch, checked if it is the first.

        Raises:
            DataError: If the batches differ in more than their length.
            ConfigurationError: If the losses are not mean cross-entropies.
        """
        _check_alike(batches)
        batch = _concatenated(list(batches.values()), _fillers(model))
        numbers = [number for number, one in enumerate(batches.values()) for _ in one["labels"]]
        keys = list(batches)
        of_row = torch.tensor(numbers, device=batch["labels"].device)
        found = RoutedBatch(batch, tuple(keys), [keys[number] for number in numbers], of_row)
        if not self._checked:
            self._check(model, batches, found)
            reshard(model)  # of which a pass without gradients leaves parts gathered
            self._checked = True
        return found

    def sums(self, model: LanguageAdapterModel, several: RoutedBatch) -> Tensor:
        """Compute Σ −log p(label) over the labels of each language, in one forward pass.

        Args:
            model: The model.
            several: The rows of all languages.

        Returns:
            The sums, of shape (languages).
        """
        if self._head is not None and self._head.active and several.batch["labels"].dim() == 2:
            logits, labels, row = self._head.logits(model, several.batch, several.language_of_row)
        else:
            logits, labels, row = _dense_logits(model, several)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        each = cross_entropy(wide, labels, ignore_index=IGNORED, reduction="none")
        numbers = torch.arange(len(several.languages), device=each.device).unsqueeze(1)
        return torch.where(several.number_of_row[row] == numbers, each, torch.zeros_like(each)).sum(
            1
        )

    def _check(
        self, model: LanguageAdapterModel, batches: Mapping[Language, Batch], several: RoutedBatch
    ) -> None:
        labels = several.batch["labels"]
        devices = [labels.device] if labels.is_cuda else []
        with torch.no_grad(), torch.random.fork_rng(devices), _without_noise(model):
            own = []
            for key, batch in batches.items():
                with model.use_language(key):
                    own.append(self._evaluate(model, batch))
            counts = torch.stack([label_count(model, batch) for batch in batches.values()])
            try:
                found = self.sums(model, several) / counts
            except (ValueError, RuntimeError, IndexError, KeyError, TypeError) as error:
                raise ConfigurationError(
                    f"{_RULE}. Found, in `{type(model.base_model).__name__}`,"
                    f" `{type(error).__name__}: {error}` {_REMEDY}"
                ) from error
        expected = torch.stack(own).to(found.dtype)
        rounded = torch.is_autocast_enabled(
            labels.device.type
        )  # the loss is then of more digits than what it is of
        tolerance = 1e-2 if rounded else _TOLERANCE.get(own[0].dtype, 1e-2)
        near = torch.isclose(
            found, expected, rtol=tolerance, atol=tolerance, equal_nan=True
        ).tolist()
        if not all(near):
            worst = near.index(False)
            raise ConfigurationError(
                f"{_RULE}, and takes the loss of each as the mean cross-entropy over its labels."
                f" Found for {several.languages[worst]!r} {float(found[worst]):.6g} in this way and"
                f" {float(expected[worst]):.6g} by the loss of `{type(model.base_model).__name__}`"
                f" or the loss function that was given. {_REMEDY}"
            )


def _dense_logits(
    model: LanguageAdapterModel, several: RoutedBatch
) -> tuple[Tensor, Tensor, Tensor]:
    """The logits of all labels, the labels, and the row of each."""
    batch, labels = several.batch, several.batch["labels"]
    given = {name: value for name, value in batch.items() if name != "labels"}
    if getattr(model.config, "is_encoder_decoder", False) and labels.dim() == 2:
        given.setdefault("decoder_input_ids", decoder_inputs(model.base_model, labels))
    logits = model(language=several.language_of_row, **given)["logits"]
    if labels.dim() == 2 and predicts_the_next_token(model):
        logits, labels = logits[:, :-1], labels[:, 1:]
    row = (
        torch.arange(len(labels), device=labels.device)
        .view(-1, *[1] * (labels.dim() - 1))
        .expand_as(labels)
    )
    return logits.flatten(0, -2), labels.flatten(), row.flatten()


def _check_alike(batches: Mapping[Language, Batch]) -> None:
    """Refuse batches that cannot be one."""
    names = {key: sorted(batch) for key, batch in batches.items()}
    first = next(iter(batches))
    for key, found in names.items():
        if "labels" not in found or found != names[first]:
            raise DataError(
                f"{_RULE}, which must have the same entries, `labels` among them. Found"
                f" {names[first]} for {first!r} and {found} for {key!r}. Let the collator give all"
                " languages the same, or write `languages_per_pass=1`."
            )


def _fillers(model: LanguageAdapterModel) -> dict[str, int]:
    """What stands in the places of a row that is shorter than others."""
    padding = getattr(model.config, "pad_token_id", None) or 0
    return {
        "input_ids": padding,
        "decoder_input_ids": padding,
        "labels": IGNORED,
        **dict.fromkeys(("attention_mask", "decoder_attention_mask", "token_type_ids"), 0),
    }


def _concatenated(batches: list[Batch], fillers: Mapping[str, int]) -> Batch:
    if len({one["input_ids"].shape[1:] for one in batches if "input_ids" in one}) > 1:
        batches = [{"attention_mask": torch.ones_like(one["input_ids"]), **one} for one in batches]
    found = {}
    for name, value in batches[0].items():
        parts = [one[name] for one in batches]
        if not isinstance(value, Tensor) or value.dim() == 0:
            if any(part is not value and part != value for part in parts):
                raise DataError(
                    f"{_RULE}, which must share what is no tensor of rows. Found {parts} as"
                    f" `{name}`. Give all languages the same, or write `languages_per_pass=1`."
                )
            found[name] = value
            continue
        if name in fillers and value.dim() == 2:
            longest = max(part.shape[1] for part in parts)
            parts = [pad(part, (0, longest - part.shape[1]), value=fillers[name]) for part in parts]
        if len({part.shape[1:] for part in parts}) > 1:
            raise DataError(
                f"{_RULE}, whose rows must be equally long. Found `{name}` of"
                f" {[tuple(part.shape) for part in parts]}. Let the collator pad to one length, or"
                " write `languages_per_pass=1`."
            )
        found[name] = torch.cat(parts)
    return found


@contextmanager
def _without_noise(model: nn.Module) -> Iterator[None]:
    """A context in which all modules are in evaluation mode; each is afterwards in the one that it was in."""
    modes = {part: part.training for part in model.modules()}
    try:
        for part in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
