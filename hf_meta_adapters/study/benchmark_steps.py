"""The steps that the benchmark on a GPU compares, on one model and the same batches."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
import transformers

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.joint_step import joint_step
from hf_meta_adapters.steps.losses import LossFunction, model_loss
from hf_meta_adapters.steps.meta_step import meta_step
from hf_meta_adapters.steps.routed_loss import RoutedLoss
from hf_meta_adapters.steps.sparse_head import SparseHead
from hf_meta_adapters.study.benchmark_shapes import BenchmarkShape
from hf_meta_adapters.study.next_steps import NextSteps

__all__ = ["COMPILED", "TRAINER", "BenchmarkSteps"]

Step: TypeAlias = Callable[[], object]

TRAINER = "joint, transformers.Trainer"
"""The step to which all others are compared."""

COMPILED = "joint, one pass, compiled"
"""A joint step whose layers are compiled; it comes last, since it changes the model."""

_RATE = 0.01  # β, of the virtual step
_MOST_OF_PAPER = 3  # languages: its passes grow with their square
_MOST_GRAPHS = 64  # of a layer
_TOGETHER = 99  # languages in a pass, at most


class BenchmarkSteps:
    """Steps by name. All but the Trainer's evaluate the head at labeled positions only.

    Args:
        shape: What the model and its batches are like.
        model: The model.
        languages: The languages of a step, the first ones of the model.
        device: `"cuda"` or `"cpu"`. On CUDA, passes run under bfloat16 autocast.
        folder: A folder that `transformers.Trainer` may have.
    """

    def __init__(
        self,
        shape: BenchmarkShape,
        model: LanguageAdapterModel,
        languages: Sequence[Language],
        device: str,
        folder: str | Path,
    ) -> None:
        self._model = model
        self._device = device
        self.train: dict[Language, Batch] = {key: shape.batch(device) for key in languages}
        """Language → training batch."""
        self._meta = {key: shape.batch(device) for key in languages}
        self._head: LossFunction = model_loss
        if shape.labels is None:
            self._head = SparseHead(model, required=True)
        if model.routes_rows:
            self._head = RoutedLoss(model, self._head)

        given = {"report_to": "none", "use_cpu": device == "cpu"}
        arguments = transformers.TrainingArguments(str(folder), **given)
        self._trainer = transformers.Trainer(model, arguments)
        self._trainer.current_gradient_accumulation_steps = len(languages)

    def by_name(self, pattern: str = "") -> dict[str, Step]:
        """The steps that take turns.

        Args:
            pattern: Only these (a regular expression), and the Trainer's.

        Returns:
            Name → step.
        """
        fast, one_pass = {"preset": "fast"}, {"languages_per_pass": _TOGETHER}
        steps: dict[str, Step] = {
            TRAINER: self._trainer_step,
            "joint": self._joint_step,
            "joint, one pass": partial(self._joint_step, _TOGETHER),
            "fast": partial(self._meta_step, **fast),
            "fast, one pass": partial(self._meta_step, **fast, **one_pass),
            "fast, half the rows": partial(self._meta_step, **fast, mixed_rows=0.5),
            "next": self._next_steps(),
            "next, one pass": self._next_steps(_TOGETHER),
            "next, half the rows": self._next_steps(mixed_rows=0.5),
        }
        if len(self.train) <= _MOST_OF_PAPER:
            steps["paper"] = partial(self._meta_step, preset="paper")

        # Rows are not routed beside a θ that is an adapter itself.
        if not self._model.routes_rows:
            steps = {name: step for name, step in steps.items() if "one pass" not in name}

        return {n: step for n, step in steps.items() if n == TRAINER or re.search(pattern, n)}

    def compiled(self) -> dict[str, Step]:
        """The steps whose layers are compiled; afterwards, no step runs without compilation.

        Returns:
            Name → step; none where rows are not routed.
        """
        if not self._model.routes_rows:
            return {}
        return {COMPILED: self._compiled_step}

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self._device, torch.bfloat16, enabled=self._device == "cuda")

    def _trainer_step(self) -> None:
        """Gradients of one batch a language, accumulated."""
        for key, batch in self.train.items():
            with self._autocast():
                self._trainer.training_step(self._model, {"language": key, **batch})

    def _joint_step(self, size: int = 1) -> None:
        joint_step(
            self._model,
            self.train,
            loss_function=self._head,
            autocast=self._autocast,
            languages_per_pass=size,
        )

    def _meta_step(self, **options: object) -> None:
        meta_step(
            self._model,
            self.train,
            self._meta,
            inner_learning_rate=_RATE,
            loss_function=self._head,
            autocast=self._autocast,
            train_gradients=False,
            **options,  # type: ignore[arg-type]  # written above
        )

    def _next_steps(self, size: int = 1, mixed_rows: float = 1.0) -> NextSteps:
        return NextSteps(
            self._model,
            self.train,
            self._head,
            autocast=self._autocast,
            languages_per_pass=size,
            mixed_rows=mixed_rows,
        )

    def _compiled_step(self) -> None:
        # Compiled in the first call, in place: no step without compilation may come after it.
        for layer in self._model.base_model.modules():
            is_layer = isinstance(layer, transformers.modeling_layers.GradientCheckpointingLayer)
            if is_layer and layer._compiled_call_impl is None:
                layer.compile()

        # Beyond torch's limit, further layers would run without compilation, and nobody would know.
        with torch._dynamo.config.patch(recompile_limit=_MOST_GRAPHS):
            self._joint_step(_TOGETHER)
        if not torch._dynamo.utils.counters["stats"]["unique_graphs"]:
            raise ConfigurationError(
                "A compiled step must have compiled layers. Found that torch has compiled none."
                " Its log (`TORCH_LOGS=graph_breaks`) tells why."
            )
