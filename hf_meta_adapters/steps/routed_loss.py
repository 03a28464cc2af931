"""The losses of several languages from one forward pass, each row through the φ of its language."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hf_meta_adapters._typing import IGNORED_LABEL, Batch, Language
from hf_meta_adapters.anatomy.passes import evaluation_mode
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps._decoder_inputs import decoder_inputs
from hf_meta_adapters.steps._first_batch import COARSE, random_state_kept, tolerance, with_labels
from hf_meta_adapters.steps._routed_batch import RULE, RoutedBatch, routed_batch
from hf_meta_adapters.steps.label_shift import first_label_counts, has_places
from hf_meta_adapters.steps.losses import (
    LossFunction,
    is_encoder_decoder,
    label_count,
    model_loss,
    whole_loss,
)
from hf_meta_adapters.steps.sharding import reshard
from hf_meta_adapters.steps.sparse_head import SparseHead

_REMEDY = "Use `languages_per_pass=1`."


class RoutedLoss:
    """Computes the losses of several languages in one forward pass, each row through its own φ.

    One large pass keeps an accelerator busier than many small ones. The activations of all its
    languages are alive at once: memory grows with the number of languages in a pass, which is the
    `languages_per_pass` of `meta_step`.

    It is a `loss_function` of `meta_step` and `joint_step`. A model's own loss is a mean over all
    labels of a batch, but the step needs the loss of each language: it is therefore computed from
    the logits, as the mean cross-entropy over the labels of each language. The first batches are
    evaluated both ways, in evaluation mode and without gradients, and a model or a loss function
    whose losses differ is refused.

    Args:
        model: The model.
        loss_function: Evaluates a batch of one language; default the loss that the model returns.
            If it is a `SparseHead`, the routed pass has a sparse head too.

    Raises:
        ConfigurationError: If the method cannot route rows in training.

    Example:
        >>> from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM
        >>> from hf_meta_adapters import BottleneckConfig, get_language_model
        >>> sizes = dict(vocab_size=99, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
        >>> base = XLMRobertaForMaskedLM(XLMRobertaConfig(intermediate_size=8, **sizes))
        >>> config = BottleneckConfig(bottleneck_size=2)
        >>> model = get_language_model(base, config, languages=["en", "sw"])
        >>> words = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[5, 6, -100]])}
        >>> loss = RoutedLoss(model)
        >>> loss.sums(model, loss.together(model, {"en": words, "sw": words})).shape
        torch.Size([2])
    """

    def __init__(
        self, model: LanguageAdapterModel, loss_function: LossFunction | None = None
    ) -> None:
        if not model.routes_rows:
            raise _cannot_route(model)

        self.whole_loss = whole_loss(loss_function)
        """Evaluates the loss of all positions of a batch of one language."""
        self._evaluate = loss_function or model_loss
        self._head = loss_function if isinstance(loss_function, SparseHead) else None
        self._checked = False
        self._is_shifted = False

    def __call__(self, model: LanguageAdapterModel, batch: Batch) -> Tensor:
        """Compute the loss of a batch in the language that is set.

        Args:
            model: The model, with a language set.
            batch: The tensors, with labels.

        Returns:
            The loss, 0-d.
        """
        return self._evaluate(model, batch)

    def together(
        self, model: LanguageAdapterModel, batches: Mapping[Language, Batch]
    ) -> RoutedBatch:
        """Put batches of several languages into one, with shorter rows padded on the right.

        Args:
            model: The model, whose config knows the padding token.
            batches: One batch for each language.

        Returns:
            The batch, checked if it is the first.

        Raises:
            DataError: If the batches differ in more than their length.
            ConfigurationError: If the losses are not mean cross-entropies.
        """
        routed = routed_batch(model, batches)

        if not self._checked:
            self._check(model, batches)
            # under FSDP2, passes without gradients leave parameters gathered
            reshard(model)
            self._checked = True

        return routed

    def sums(self, model: LanguageAdapterModel, routed: RoutedBatch) -> Tensor:
        """Compute Σ −log p(label) over the labels of each language, in one forward pass.

        Args:
            model: The model.
            routed: The rows of all languages.

        Returns:
            The sums, of shape (languages).
        """
        logits, labels, row = self._logits(model, routed)

        # at least in float32: half precision would lose small probabilities
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = cross_entropy(logits, labels, ignore_index=IGNORED_LABEL, reduction="none")

        # (languages, labels): the losses of each language in its own row, zeros elsewhere
        numbers = torch.arange(len(routed.languages), device=losses.device).unsqueeze(1)
        is_own = routed.number_of_row[row] == numbers
        return torch.where(is_own, losses, torch.zeros_like(losses)).sum(1)

    def _logits(
        self, model: LanguageAdapterModel, routed: RoutedBatch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The logits of all labels, the labels, and the row of each."""
        has_positions = routed.batch["labels"].dim() == 2
        if self._head is not None and self._head.active and has_positions:
            return self._head.logits(model, routed.batch, routed.language_of_row)
        return _dense_logits(model, routed, shifted=self._is_shifted)

    def _check(self, model: LanguageAdapterModel, batches: Mapping[Language, Batch]) -> None:
        """Compare the losses of the first batches with those of the loss function, by language."""
        batches = {key: with_labels(batch) for key, batch in batches.items()}
        routed = routed_batch(model, batches)
        labels = routed.batch["labels"]

        with torch.no_grad(), random_state_kept(labels), evaluation_mode(model):
            expected_losses = []
            for key, batch in batches.items():
                if has_places(batch):
                    self._is_shifted = not first_label_counts(model, batch, self.whole_loss)
                with model.use_language(key):
                    expected_losses.append(self._evaluate(model, batch))

            count = partial(label_count, model, loss_function=self.whole_loss)
            counts = labels.new_tensor([count(batch) for batch in batches.values()])
            try:
                losses = self.sums(model, routed) / counts
            except (ValueError, RuntimeError, IndexError, KeyError, TypeError) as error:
                raise ConfigurationError(
                    f"{RULE}. Found, in `{type(model.base_model).__name__}`,"
                    f" `{type(error).__name__}: {error}` {_REMEDY}"
                ) from error

        # Under autocast the losses are in float32, the logits in half precision.
        bound = tolerance(expected_losses[0].dtype)
        if torch.is_autocast_enabled(labels.device.type):
            bound = COARSE

        expected = torch.stack(expected_losses).to(losses.dtype)
        is_close = torch.isclose(losses, expected, rtol=bound, atol=bound, equal_nan=True).tolist()
        if not all(is_close):
            worst = is_close.index(False)
            raise ConfigurationError(
                f"{RULE}, and takes the loss of each language as the mean cross-entropy over its"
                f" labels. Found {float(losses[worst]):.6g} for {routed.languages[worst]!r} in this"
                f" way, and {float(expected[worst]):.6g} by the loss of"
                f" `{type(model.base_model).__name__}` or the loss function that was passed."
                f" {_REMEDY}"
            )


def _dense_logits(
    model: LanguageAdapterModel, routed: RoutedBatch, *, shifted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The logits at all positions, the labels, and the row of each."""
    labels = routed.batch["labels"]
    inputs = {name: value for name, value in routed.batch.items() if name != "labels"}
    if is_encoder_decoder(model) and labels.dim() == 2:
        inputs.setdefault("decoder_input_ids", decoder_inputs(model.base_model, labels))

    logits = model(language=routed.language_of_row, **inputs)["logits"]
    if shifted and labels.dim() == 2:
        logits, labels = logits[:, :-1], labels[:, 1:]

    # (rows, 1, …) → the shape of the labels: (rows) or (rows, positions)
    rows = torch.arange(len(labels), device=labels.device)
    rows = rows.view(-1, *[1] * (labels.dim() - 1)).expand_as(labels)

    return logits.flatten(0, -2), labels.flatten(), rows.flatten()


def _cannot_route(model: LanguageAdapterModel) -> ConfigurationError:
    neighbor = "a shared adapter" if model.shared_part is not None else "no other adapter"

    return ConfigurationError(
        f"{RULE}, each through the adapter of its language, as bottleneck adapters and LoRA can."
        f" Found `{type(model.backend.config).__name__}` of the backend"
        f' "{model.backend.name}", beside {neighbor}. {_REMEDY}'
    )
