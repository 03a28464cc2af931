"""The outer step compares itself with the exact gradient now and then, and falls back where it is wrong."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta import MetaOptions
from hf_meta_adapters.meta.vectors import is_sharded
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.meta_fidelity import meta_fidelity

_ROWS, _LANGUAGES = 4, 4


class SelfCheck:
    """Which setting of the outer step is in use: the one that was asked for, or a safer one in its place.

    Every `every` steps the setting is compared with the exact gradient on a few rows of up to four
    languages. Where the cosine is under `bound`, the next safer setting is taken for the rest of
    the run:

        as asked for → a look-ahead per language, validation languages drawn, central differences →
        exact

    Args:
        options: The setting that was asked for.
        every: The number of steps between two comparisons; 0 for none.
        bound: The least cosine.
    """

    def __init__(self, options: MetaOptions, every: int, bound: float) -> None:
        self.level = 0
        """How often it fell back, to be saved with a checkpoint."""
        self._every = every
        self._bound = bound
        each = replace(options, lookahead="per_language")
        if options.lookahead != "per_language":
            each = replace(each, meta_languages_per_step=2)
        safer = replace(each, meta_gradient="finite_difference", finite_difference_scheme="central")
        exact = replace(options, meta_gradient="exact", lookahead="per_language", cpu_offload=False)
        self._settings = [options, safer, exact]

    @property
    def options(self) -> MetaOptions:
        """The setting in use."""
        return self._settings[self.level]

    def __call__(
        self,
        model: LanguageAdapterModel,
        batches: Mapping[Any, Mapping[Language, Sequence[Batch]]],
        step: int,
        **given: Any,
    ) -> float | None:
        """Compare, if it is time, and fall back if the setting in use is wrong.

        Args:
            model: The model.
            batches: role → language → micro-batches of the step.
            step: The number of steps taken.
            **given: Further arguments of `meta_step`.

        Returns:
            The cosine, or `None` if nothing was compared.
        """
        if any(
            is_sharded(parameter) for parameter in model.parameters()
        ):  # of which no second derivative is known
            exact = replace(
                self._settings[2],
                meta_gradient="finite_difference",
                finite_difference_scheme="central",
            )
            self._settings[2] = exact
        if not self._every or step == 0 or step % self._every or not self._wanted:
            return None
        few = {
            role: {key: _rows(several[key][0]) for key in list(several)[:_LANGUAGES]}
            for role, several in batches.items()
        }
        devices = [model.device] if model.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices):
                cosine = float(
                    meta_fidelity(model, few["train"], few["meta"], **given, **vars(self.options))
                )
        except (ConfigurationError, RuntimeError, NotImplementedError) as error:
            # an error of one process alone would leave the others waiting for it
            if given.get("all_reduce") is not None and not isinstance(error, ConfigurationError):
                raise
            self._every = 0
            warnings.warn(
                f"The outer step cannot compare itself with the exact gradient: {error} It goes on"
                " without; `fidelity_check_steps=0` says so from the beginning.",
                stacklevel=2,
            )
            return None
        if cosine < self._bound:
            self._fall_back(cosine, step)
        return None if math.isnan(cosine) else cosine  # of rows without labels

    @property
    def _wanted(self) -> bool:
        """Whether the setting in use can differ from the exact one, and is not an ablation on purpose."""
        options = self.options
        exact = (
            options.meta_gradient in ("exact", "forward_mode")
            and options.lookahead == "per_language"
        )
        return not exact and options.meta_gradient != "first_order"

    def _fall_back(self, cosine: float, step: int) -> None:
        before = self.options
        self.level += 1
        if self.options == before:
            self.level += 1
        now = self.options
        warnings.warn(
            "The meta-gradient must point where the exact one points. Found a cosine of"
            f" {cosine:.3f} after {step} "
            f'steps with `meta_gradient="{before.meta_gradient}", lookahead="{before.lookahead}"`,'
            " under "
            f"`min_fidelity={self._bound}`. From now on the run takes "
            f'`meta_gradient="{now.meta_gradient}", lookahead="{now.lookahead}"`, which costs more:'
            " lower "
            "`inner_learning_rate`, or choose the setting yourself.",
            stacklevel=2,
        )


def _rows(batch: Batch) -> Batch:
    """The first rows of a batch."""
    tensors = [value for value in batch.values() if isinstance(value, Tensor) and value.dim()]
    count = len(tensors[0]) if tensors else 0
    return {
        name: (
            value[:_ROWS]
            if isinstance(value, Tensor) and value.dim() and len(value) == count
            else value
        )
        for name, value in batch.items()
    }
