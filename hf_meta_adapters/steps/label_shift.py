"""Whether a loss compares the logits of a place with the label of the next one, by trying it out.

transformers says it nowhere. The name of a class does not tell: `Gemma3ForConditionalGeneration`
shifts its labels and `BartForCausalLM` does not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hf_meta_adapters._typing import IGNORED_LABEL, Batch
from hf_meta_adapters.anatomy.passes import device_of, evaluation_mode, routed_to
from hf_meta_adapters.steps._first_batch import random_state_kept, tolerance
from hf_meta_adapters.steps.sharding import reshard

_Evaluate = Callable[[Any, Batch], Tensor]

_KNOWN: WeakKeyDictionary[nn.Module, WeakKeyDictionary[object, dict[str, bool]]]
_KNOWN = WeakKeyDictionary()
"""model → who computes the loss → by which function → whether the first label of a row counts."""

_FAILURES = (ValueError, RuntimeError, LookupError, TypeError, AttributeError, AssertionError)
"""What a model or a loss function may raise on a batch that is not meant for it."""


def first_label_counts(model: nn.Module, batch: Batch | None, evaluate: _Evaluate) -> bool:
    """Find out whether the first label of each row takes part in a loss.

    It does not where the loss shifts the labels: nothing comes before the first token, so nothing
    predicts it. It does where the label of a place belongs to the logits of the same place, and
    also where a prompt comes before the text, whose last logits predict the first token.

    The loss of rows with a first label alone is compared with the loss of rows without any label,
    in evaluation mode and without gradients, once for each model and loss function. It does not
    matter what the logits are, so that there are no ties, nor what else is added to the loss.

    Args:
        model: The model.
        batch: A batch that it is trained on; `None` if there is none yet.
        evaluate: Computes the loss.

    Returns:
        Whether it counts; `True` for a decoder with inputs of its own, and where a loss cannot be
        computed in this way.
    """
    # Their labels are those of the decoder, which begins with a token of its own. Some read the
    # last label of each row, and fail on rows that have none.
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return True

    # A bound method is a new object whenever it is asked for.
    owner: object = getattr(evaluate, "__self__", evaluate)
    name = getattr(evaluate, "__name__", "")

    try:
        known = _KNOWN.setdefault(model, WeakKeyDictionary()).setdefault(owner, {})
    except TypeError:
        known = {}  # of a callable object that cannot be remembered

    if name not in known:
        known[name] = _try_out(model, batch, evaluate)
    return known[name]


def reads_ahead(model: nn.Module) -> bool:
    """Find out whether the logits of a place depend on later tokens.

    Args:
        model: The model.

    Returns:
        Whether they do; `False` where the model cannot be run on a few tokens.
    """
    device = device_of(model)
    with _trying_out(model, device):
        for given in _candidates(model, None, device):
            tokens = given["input_ids"]
            others = tokens.clone()
            others[:, -1] = tokens[:, 0]

            try:
                one, other = (
                    model(**{**given, "input_ids": ids, "labels": None}).logits[:, 0]
                    for ids in (tokens, others)
                )
            except _FAILURES:
                return False

            bound = tolerance(one.dtype)
            return not torch.allclose(one, other, rtol=bound, atol=bound)
    return False


@contextmanager
def _trying_out(model: nn.Module, device: torch.device) -> Iterator[None]:
    """A context of passes that leave no trace in the model or the random state."""
    language = None
    if getattr(model, "language", None) is None:
        language = next(iter(getattr(model, "languages", ())), None)

    # Compiled layers would be compiled once more. Without any, the import would take seconds.
    eager: AbstractContextManager[object] = nullcontext()
    if "torch._dynamo" in sys.modules:
        eager = torch.compiler.set_stance("force_eager")

    with (
        eager,
        torch.no_grad(),
        random_state_kept(torch.empty(0, device=device)),
        evaluation_mode(model),
        routed_to(model, language),
    ):
        yield


def _try_out(model: nn.Module, batch: Batch | None, evaluate: _Evaluate) -> bool:
    device = device_of(model)
    with _trying_out(model, device):
        for candidate in _candidates(model, batch, device):
            try:
                counts = _differs(model, candidate, evaluate)
            except _FAILURES:
                continue
            finally:
                # under FSDP2, passes without gradients leave parameters gathered
                reshard(model)
            return counts

    return True


def _candidates(model: nn.Module, batch: Batch | None, device: torch.device) -> Iterator[Batch]:
    """Batches to try: a few tokens, which cost least, or else the batch itself."""
    if device.type == "meta":
        return  # weights without values

    tokens = few_tokens(model, device)
    # A GPU does not report a token outside the vocabulary: the process dies.
    if int(tokens["input_ids"].max()) < _vocabulary(model):
        yield tokens

    if batch is not None and has_places(batch):
        yield batch


def _vocabulary(model: nn.Module) -> int:
    """The number of tokens that the model embeds; 0 if it does not tell."""
    try:
        embeddings = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError, TypeError):
        return 0
    return getattr(embeddings, "num_embeddings", 0)


def has_places(batch: Batch) -> bool:
    """Whether a batch has one whole number as a label for each place of each row."""
    labels = batch.get("labels")
    if not isinstance(labels, Tensor) or labels.dim() != 2:
        return False

    return labels.numel() > 0 and not labels.is_floating_point()


def few_tokens(model: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """Two rows of four ordinary tokens, with labels that every head has."""
    taken = _special_tokens(getattr(model, "config", None))
    ordinary = [token for token in range(len(taken) + 2) if token not in taken]

    tokens = torch.tensor([ordinary[:2] * 2] * 2, device=device)
    # both 0 and 1, since one of them may be a padding token that the loss ignores
    labels = torch.tensor([[0] * 4, [1] * 4], device=device)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}


def _special_tokens(config: Any) -> set[int]:
    """The tokens that mean something to the model, such as the place of an image."""
    settings = config.to_dict() if hasattr(config, "to_dict") else {}

    tokens: set[int] = set()
    pending: list[dict[str, Any]] = [settings]
    while pending:
        for name, value in pending.pop().items():
            if isinstance(value, dict):
                pending.append(value)
            elif str(name).endswith(("token_id", "token_index")):
                values = value if isinstance(value, list) else [value]
                tokens.update(token for token in values if isinstance(token, int))

    return tokens


def _differs(model: nn.Module, batch: Batch, evaluate: _Evaluate) -> bool:
    """Whether the loss changes when each row gets a first label and no other."""
    labels: Tensor = batch["labels"]
    without = torch.full_like(labels, IGNORED_LABEL)

    with_first = without.clone()
    with_first[:, 0] = labels[:, 0].clamp(min=0)  # any class will do where it is ignored

    # A mean over no labels is NaN, and NaN it stays with a term of the router in it.
    nothing = evaluate(model, {**batch, "labels": without})
    first = evaluate(model, {**batch, "labels": with_first})

    bound = tolerance(nothing.dtype)
    return not bool(torch.isclose(first, nothing, rtol=bound, atol=bound, equal_nan=True).all())
