"""The outer step compares itself with the exact gradient from time to time, and falls back."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_meta_adapters._typing import Batch, Language
from hf_meta_adapters.backends.rows import count_rows
from hf_meta_adapters.data.key import Role
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta import MetaOptions
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.meta_fidelity import meta_fidelity
from hf_meta_adapters.training._step_at_hand import FidelityArguments, StepBatches

if TYPE_CHECKING:
    from typing_extensions import Unpack

_ROWS, _LANGUAGES = 4, 4


class SelfCheck:
    """Chooses the setting of the outer step: the requested one, or a safer one instead.

    Every `every` steps the setting in use is compared with the exact gradient on a few rows of up
    to four languages. Where the cosine is under `bound`, the next of `safer_settings` is used for
    the rest of the run.

    Args:
        options: The requested setting.
        every: The number of steps between two comparisons; 0 for none.
        bound: The least cosine.
        sharded: Whether parameters are divided among processes (FSDP2).
    """

    def __init__(
        self, options: MetaOptions, every: int, bound: float, *, sharded: bool = False
    ) -> None:
        self.level = 0
        """How often it fell back; saved with a checkpoint."""
        self._settings = safer_settings(options, sharded=sharded)
        self._every = every
        self._bound = bound

    @property
    def options(self) -> MetaOptions:
        """The setting in use."""
        return self._settings[self.level]

    def __call__(
        self,
        model: LanguageAdapterModel,
        batches: StepBatches,
        step: int,
        **arguments: Unpack[FidelityArguments],
    ) -> float | None:
        """Compare, if it is time, and fall back if the setting in use has drifted too far.

        Args:
            model: The model.
            batches: role → language → micro-batches of the step.
            step: The number of steps taken.
            **arguments: Further arguments of `meta_fidelity`.

        Returns:
            The cosine, or `None` if nothing was compared.
        """
        if not self._is_due(step):
            return None

        cosine = self._compare(model, batches, **arguments)
        if cosine is None or math.isnan(cosine):  # rows without labels have no direction
            return None

        if cosine < self._bound:
            self._fall_back(cosine, step)
        return cosine

    def _is_due(self, step: int) -> bool:
        if self._every == 0 or step == 0 or step % self._every:
            return False

        # Nothing to learn from a comparison of the exact gradient with itself, and "first_order" is
        # an ablation: its cosine is low on purpose.
        options = self.options

        is_exact = (
            options.meta_gradient in ("exact", "forward_mode")
            and options.lookahead == "per_language"
        )
        # The look-ahead to the next step has no virtual step, and is no estimate of the paper's.
        has_none = options.meta_gradient == "first_order" or options.lookahead == "next"
        return not is_exact and not has_none

    def _compare(
        self,
        model: LanguageAdapterModel,
        batches: StepBatches,
        **arguments: Unpack[FidelityArguments],
    ) -> float | None:
        """The cosine to the exact gradient; `None` where it cannot be computed, now and later."""
        train = _first_rows(batches, "train")
        meta = _first_rows(batches, "meta")
        if self.options.named_meta_languages() is not None:
            # All of these count, whichever languages are trained on.
            meta = {key: _truncated(several[0]) for key, several in batches["meta"].items()}

        # Of all rows: a sample has no bias, and its noise on these few rows would say little.
        options = replace(self.options, mixed_rows=1.0, mixed_languages=1.0)

        devices = []
        if model.device.type == "cuda":
            devices.append(model.device)

        try:
            # A run that is checked draws the same random numbers as one that is not.
            with torch.random.fork_rng(devices):
                cosine = meta_fidelity(model, train, meta, **arguments, **asdict(options))
            return float(cosine)
        except (ConfigurationError, RuntimeError, NotImplementedError) as error:
            # An error of one process alone would leave the others waiting for it. What is raised
            # of the configuration is raised in all of them.
            are_several = arguments.get("all_reduce") is not None
            if are_several and not isinstance(error, ConfigurationError):
                raise

            self._every = 0
            warnings.warn(
                f"The outer step cannot compare itself with the exact gradient: {error} The run"
                " continues without comparisons; `fidelity_check_steps=0` turns them off from the"
                " start.",
                stacklevel=2,
            )
            return None

    def _fall_back(self, cosine: float, step: int) -> None:
        before = self.options
        self.level += 1

        if self.options == before:  # the safer setting was the requested one
            self.level += 1

        now = self.options
        warnings.warn(
            "The meta-gradient has drifted from the exact one. Found a cosine of"
            f" {cosine:.3f} after {step} steps with"
            f' `meta_gradient="{before.meta_gradient}", lookahead="{before.lookahead}"`, under'
            f" `min_fidelity={self._bound}`. From now on the run uses"
            f' `meta_gradient="{now.meta_gradient}", lookahead="{now.lookahead}"`, which costs'
            " more: lower `inner_learning_rate`, or choose the setting yourself.",
            stacklevel=2,
        )


def safer_settings(options: MetaOptions, *, sharded: bool) -> tuple[MetaOptions, ...]:
    """The requested setting, and the settings to fall back to, each safer than the one before.

    requested → a look-ahead per language with two validation languages drawn, central differences
    → exact, or the nearest thing to it where parameters are sharded.

    Args:
        options: The requested setting.
        sharded: Whether parameters are divided among processes (FSDP2).

    Returns:
        The settings.
    """
    per_language = replace(options, lookahead="per_language")
    if options.lookahead != "per_language":
        per_language = replace(per_language, meta_languages_per_step=2)
    central = replace(
        per_language, meta_gradient="finite_difference", finite_difference_scheme="central"
    )

    exact = replace(options, meta_gradient="exact", lookahead="per_language", cpu_offload=False)
    if sharded:
        # FSDP2 gathers parameters outside autograd: there is no second derivative of them.
        exact = replace(
            exact, meta_gradient="finite_difference", finite_difference_scheme="central"
        )

    return options, central, exact


def _first_rows(batches: StepBatches, role: Role) -> dict[Language, Batch]:
    """A few rows of the first micro-batch of a few languages."""
    languages = list(batches[role])[:_LANGUAGES]
    return {language: _truncated(batches[role][language][0]) for language in languages}


def _truncated(batch: Batch) -> Batch:
    """The first rows of a batch; an entry that has no rows stays whole."""
    rows = count_rows(batch)
    entries: dict[str, object] = {}
    for name, value in batch.items():
        entries[name] = value
        if isinstance(value, Tensor) and value.dim() and len(value) == rows:
            entries[name] = value[:_ROWS]

    return entries
