"""The optimizer step at hand, and the keyword arguments with which the steps are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypedDict

from torch import Tensor
from torch.optim import Optimizer

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.data.key import Role
from hf_meta_adapters.data.language_collator import StepBatch
from hf_meta_adapters.meta.step_weights import StepWeights
from hf_meta_adapters.meta.surgery import Surgery
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.losses import LossFunction

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.amp import GradScaler

StepBatches: TypeAlias = Mapping[Role, Mapping[Language, Sequence[Batch]]]
"""role → language → micro-batches."""


@dataclass(frozen=True)
class StepAtHand:
    """What an optimizer step is taken on.

    Args:
        number: The number of optimizer steps taken before.
        model: The model, without wrappers for data parallelism: they know nothing of gradients of
            gradients.
        batches: The micro-batches.
        optimizer: The optimizer of θ and φ, as Accelerate prepared it.
        accelerator: The Trainer's.
    """

    number: int
    model: LanguageAdapterModel
    batches: StepBatches
    optimizer: Optimizer
    accelerator: Accelerator

    @property
    def languages(self) -> list[Language]:
        """The languages of the step, in any role."""
        return list(dict.fromkeys([*self.batches["train"], *self.batches.get("meta", {})]))

    @property
    def scaler(self) -> GradScaler | None:
        """The loss scaler of fp16 training."""
        scaler: GradScaler | None = self.accelerator.scaler
        return scaler

    def drawing_seed(self, seed: int) -> int:
        """The seed of the draws of languages: others in each step, and for each seed of a run."""
        return (seed << 32) + self.number


class Evaluation(TypedDict):
    """How `meta_step`, `joint_step` and `meta_fidelity` evaluate losses and sum gradients.

    Attributes:
        loss_function: Evaluates a batch.
        autocast: Makes the context of an evaluation.
        all_reduce: Sums over processes in place, where there are several.
        loss_scale: The scale of fp16 training, 0-d.
    """

    loss_function: LossFunction
    autocast: Callable[[], AbstractContextManager[object]]
    all_reduce: Callable[[Tensor], None] | None
    loss_scale: Tensor | None


class VirtualStep(TypedDict):
    """The inner step θ → θ' of `meta_step` and `meta_fidelity`.

    Attributes:
        inner_learning_rate: β.
        inner_optimizer: `"sgd"` or `"adam"`.
        optimizer: The optimizer of θ, whose state `"adam"` reads.
    """

    inner_learning_rate: float
    inner_optimizer: str
    optimizer: Optimizer


class FidelityArguments(Evaluation, VirtualStep):
    """The keyword arguments that `meta_fidelity` takes besides the options to be checked."""


class MetaStepArguments(FidelityArguments):
    """The keyword arguments that `meta_step` takes besides the options.

    Attributes:
        for_languages: The languages whose meta-gradients are wanted; `None` for all.
        train_gradients: Whether the training gradients of φ are wanted.
        seed: The seed of the draws of languages.
        surgery: What weighs the gradients of θ.
        step_weights: The weights of the languages in the gradient of θ.
    """

    for_languages: Sequence[Language] | None
    train_gradients: bool
    seed: int
    surgery: Surgery | None
    step_weights: StepWeights | None


def join_micro_batches(micro_batches: Sequence[StepBatch]) -> StepBatches:
    """The batches of an optimizer step: for each role and language, those of all micro-steps."""
    joined: dict[Role, dict[Language, list[Batch]]] = {}
    for role, batches in micro_batches[0].items():
        joined[role] = {language: [] for language in batches}
        for micro_batch in micro_batches:
            for language, batch in micro_batch[role].items():
                joined[role][language].append(batch)
    return joined
