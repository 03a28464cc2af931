"""What training costs around its steps: its start, its batches, its checkpoints."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from datasets import Dataset

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends.bottleneck import BottleneckConfig
from hf_meta_adapters.modeling.factory import get_language_model
from hf_meta_adapters.study.memory import MemoryPeaks
from hf_meta_adapters.study.token_tables import padded
from hf_meta_adapters.study.training_clock import TrainingClock
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments
from hf_meta_adapters.training.trainer import MetaAdapterTrainer

__all__ = ["ARRANGEMENTS", "AroundStep"]

PLAIN, JOINT = "transformers.Trainer", "joint, no roles"
GIVEN, SPLIT = "fast, roles given", "fast, roles split off"

ARRANGEMENTS = (PLAIN, JOINT, GIVEN, SPLIT)
"""How data are given: all rows together, by language, with meta rows, and to be split."""

_HELD_OUT = 0.1  # of the rows, where roles are given
_LONGEST = 66  # positions
_OF_CHECKPOINTS = 2_000  # rows of each language: they do not count there
_OF_EVALUATION = 64


@dataclass(frozen=True)
class AroundStep:
    """Measures on the data of several languages, with a small XLM-R and bottleneck adapters.

    Args:
        data: language → rows of tokens.
        folder: Where checkpoints may be written.
        hidden_size: The width of the four layers.
        vocabulary: The size of the vocabulary.
        batch_size: Rows per language and role.
        steps: How many each Trainer takes.
    """

    data: Mapping[Language, Dataset]
    folder: Path
    hidden_size: int
    vocabulary: int
    batch_size: int
    steps: int

    def start(self, arrangement: str) -> dict[str, Any]:
        """Train for a few steps, from the construction of the Trainer on.

        Args:
            arrangement: One of `ARRANGEMENTS`.

        Returns:
            Seconds and peaks of memory up to the first step, and seconds of what follows.
        """
        self._base()  # what transformers imports with its first model
        peaks, found = MemoryPeaks(), {}
        clock = TrainingClock(at_first_step=lambda: found.update(peaks.stop()))

        began, wall = time.process_time(), time.perf_counter()
        trainer = self._trainer(arrangement, self.data, clock)
        row = {"part": arrangement, "construction_seconds": time.process_time() - began}
        row["construction_wall_seconds"] = time.perf_counter() - wall
        trainer.train()

        assert clock.first_step is not None
        row["start_seconds"] = clock.first_step - began
        row |= {f"{name}_mb": value for name, value in found.items()}
        batch, step = statistics.median(clock.batches), statistics.median(clock.steps[1:])
        row |= {"batch_seconds": batch, "step_seconds": step, "batch_share": batch / (batch + step)}
        if arrangement == SPLIT:
            row["loading"] = self._loading(trainer)
        return row

    def checkpoints(self) -> dict[str, Any]:
        """Save after each step, resume, and evaluate.

        Returns:
            Seconds of a step, of a checkpoint, of `torch.save` of its state, of `torch.load`, and
            of what precedes the first step after resuming and the first pass of an evaluation.
        """
        saved: list[float] = []
        file = self.folder / "state.pt"
        count = _OF_CHECKPOINTS
        data = {key: rows.select(range(min(count, len(rows)))) for key, rows in self.data.items()}

        def save() -> None:
            state = {"model": trainer.model.state_dict()}
            state["optimizer"] = trainer.optimizer.state_dict()
            saved.append(_seconds(lambda: torch.save(state, file)))

        clock, again = TrainingClock(after_saving=save), TrainingClock()
        options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}
        trainer = self._trainer(SPLIT, data, clock, **options)
        trainer.train()

        options["max_steps"] = self.steps + 1
        resumed = self._trainer(SPLIT, data, again, **options)
        began = time.process_time()
        resumed.train(resume_from_checkpoint=True)
        assert again.first_step is not None

        first: list[float] = []
        embeddings = resumed.model.base_model.get_input_embeddings()
        embeddings.register_forward_pre_hook(lambda *_: first.append(time.process_time()))
        asked = time.process_time()
        few = {key: rows.select(range(_OF_EVALUATION)) for key, rows in data.items()}
        resumed.evaluate(few)

        return {
            "part": "checkpoint",
            "step_seconds": statistics.median(clock.steps[1:]),
            "save_seconds": statistics.median(clock.checkpoints[1:]),
            "torch_save_seconds": statistics.median(saved[1:]),
            "torch_load_seconds": _seconds(lambda: torch.load(file)),
            "resume_seconds": again.first_step - began,
            "evaluation_start": first[0] - asked,
            "evaluation_seconds": time.process_time() - asked,
        }

    def _loading(self, trainer: Any) -> dict[str, float]:
        """Microseconds of a row, loaded from data with roles and from data without, in turns."""
        plain = self._trainer(JOINT, self.data)
        loaders = {
            "with roles": (iter(trainer.get_train_dataloader()), 2),
            "without roles": (iter(plain.get_train_dataloader()), 1),
        }
        microseconds: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(4 * self.steps):
            for name, (batches, roles) in loaders.items():
                seconds = _seconds(partial(next, batches))
                rows = len(self.data) * self.batch_size * roles
                microseconds[name].append(1e6 * seconds / rows)

        # The first batch draws the order of the rows.
        return {name: statistics.median(values[1:]) for name, values in microseconds.items()}

    def _trainer(
        self,
        arrangement: str,
        data: Mapping[Language, Dataset],
        clock: TrainingClock | None = None,
        **options: Any,
    ) -> Any:
        """The Trainer of an arrangement of the data, with a model of its own."""
        given: dict[str, Any] = {
            "max_steps": self.steps,
            "per_device_train_batch_size": self.batch_size,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "save_strategy": "no",
            "logging_strategy": "no",
            "save_total_limit": 1,
            **options,
        }
        keywords: dict[str, Any] = {"data_collator": padded, "callbacks": [clock] if clock else []}
        if arrangement == PLAIN:
            given["per_device_train_batch_size"] *= len(data)
            arguments = transformers.TrainingArguments(str(self.folder), **given)
            rows = datasets.concatenate_datasets(list(data.values()))
            return transformers.Trainer(self._base(), arguments, train_dataset=rows, **keywords)

        given |= {"adapter_update": "train"} if arrangement == JOINT else {"preset": "fast"}
        if arrangement == GIVEN:
            held_out = {key: round(_HELD_OUT * len(rows)) for key, rows in data.items()}
            meta = {key: data[key].select(range(count)) for key, count in held_out.items()}
            keywords["meta_dataset"] = meta
            data = {
                key: data[key].select(range(count, len(data[key])))
                for key, count in held_out.items()
            }

        adapter = BottleneckConfig(bottleneck_size=max(2, self.hidden_size // 2))
        model = get_language_model(self._base(), adapter, list(data))
        arguments = MetaAdapterTrainingArguments(str(self.folder), **given)
        return MetaAdapterTrainer(model, arguments, train_dataset=data, **keywords)

    def _base(self) -> transformers.PreTrainedModel:
        transformers.set_seed(0)
        config = transformers.XLMRobertaConfig(
            hidden_size=self.hidden_size,
            intermediate_size=4 * self.hidden_size,
            num_hidden_layers=4,
            num_attention_heads=max(1, self.hidden_size // 64),
            vocab_size=self.vocabulary,
            max_position_embeddings=_LONGEST,
        )
        return transformers.XLMRobertaForMaskedLM(config)


def _seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began
