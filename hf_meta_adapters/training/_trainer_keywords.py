"""What `MetaAdapterTrainer` passes on to the Trainer of transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypedDict

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hf_meta_adapters._typing import Keywords

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin, TrainerCallback
    from transformers.trainer_utils import EvalPrediction

    from hf_meta_adapters.training.default_collator import Collator


class TrainerKeywords(TypedDict, total=False):
    """The arguments of `transformers.Trainer` beside the model, its arguments and its data."""

    data_collator: Collator | None
    processing_class: PreTrainedTokenizerBase | ProcessorMixin | None
    model_init: Callable[..., object] | None
    compute_loss_func: Callable[..., Tensor] | None
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None
    callbacks: Sequence[TrainerCallback] | None
    optimizers: tuple[Optimizer | None, LambdaLR | None]
    optimizer_cls_and_kwargs: tuple[type[Optimizer], Keywords] | None
    preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None
