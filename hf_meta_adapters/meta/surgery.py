"""Gradient surgery: θ's update as a weighted sum of the languages' gradients, by TorchJD's methods.

g  =  Σ_l w_l g_l,     w = W(⟨g_i, g_j⟩) of the L × L inner products.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta._pair_table import PairTable
from hf_meta_adapters.meta._projection import Groups
from hf_meta_adapters.meta.weightings import METHODS, check_method, gradvac, language_weights

__all__ = ["SURGERY_GRADIENTS", "Surgery", "SurgeryGradients"]

SurgeryGradients: TypeAlias = Literal["auto", "keep", "sketch", "lagged"]
SURGERY_GRADIENTS: tuple[str, ...] = get_args(SurgeryGradients)

_KEPT_NUMBERS = 1 << 26  # of all gradients together: 256 MiB in float32
_MEASURED = 0.25  # share of the steps that "lagged" projects the gradients of
_FORGETTING = 0.04  # weight of the newest inner products: a mean of about a hundred steps
_TABLES = ("products", "mass", "targets")


class Surgery:
    """The weights of the languages' gradients in the update of θ, and what they are computed from.

    An object lives as long as a run: pass the same one to `joint_step`, `meta_step`,
    `joint_gradient` or `meta_gradient` in every step, on every process. Like an optimizer, it has a
    state, which belongs in a checkpoint. All weights are scaled such that equal gradients give back
    that gradient, so that a learning rate means the same as with the mean.

    A language whose gradient is zero counts as zero in the mean, and takes no part in the method.
    Where inner products are not finite, or the method finds no weights, the step takes the mean.

    Args:
        method: `"pcgrad"`, `"gradvac"`, `"upgrad"`, `"dualproj"`, `"cagrad"` (c = 0.5),
            `"aligned_mtl"`, `"mgda"`, `"imtl_g"`, `"fairgrad"` (α = 2) or `"nash_mtl"`.
        gradients: Where the inner products come from. `"keep"`: the gradients of all languages are
            kept until they are weighed; L times the memory of θ. `"sketch"`: random projections of
            them are kept, and a second training pass takes the weighted sum. `"lagged"`: the
            weights come from the projections of earlier steps, of about every fourth, as a running
            mean of their inner products over about a hundred steps, and one pass does; the first
            step takes the mean. `"auto"`: `"keep"` where L gradients have at most 2²⁶ numbers (a
            LoRA for θ), and `"lagged"` otherwise.
        groups: Whether the whole `"model"` has one weight per language, or each `"layer"` its own.
        seed: The seed of projections, and of the orders that `"pcgrad"` and `"gradvac"` draw.

    Raises:
        ConfigurationError: If a value is unknown, or the extra `surgery` is not installed.

    Example:
        >>> surgery = Surgery("pcgrad")
        >>> opposed = torch.tensor([[[1.0, -1.0], [-1.0, 4.0]]])
        >>> surgery.weights(["en", "sw"], opposed)  # g_en + g_sw/4 and g_sw + g_en, by 2
        tensor([[1.0000, 0.6250]], dtype=torch.float64)
    """

    def __init__(
        self,
        method: str,
        *,
        gradients: SurgeryGradients = "auto",
        groups: Groups = "model",
        seed: int = 0,
    ) -> None:
        check_method(method)
        for name, value, choices in (
            ("gradients", gradients, SURGERY_GRADIENTS),
            ("groups", groups, get_args(Groups)),
        ):
            if value not in choices:
                raise ConfigurationError(
                    f"`{name}` must be one of {', '.join(choices)}. Found {value!r}."
                )

        self.method = method
        self.gradients = gradients
        self.groups: Groups = groups
        self.seed = seed
        self.steps = 0
        """How many steps have been combined."""

        self._weigh = METHODS[method].make()
        self._pairs = PairTable(_TABLES)
        self._told: set[str] = set()

    def __repr__(self) -> str:
        return (
            f'Surgery("{self.method}", gradients="{self.gradients}", groups="{self.groups}",'
            f" seed={self.seed})"
        )

    def way(self, numbers: int) -> SurgeryGradients:
        """How inner products are had.

        Args:
            numbers: How many numbers the gradients of all languages have together.

        Returns:
            `gradients`, or what `"auto"` stands for.
        """
        if self.gradients != "auto":
            return self.gradients
        return "keep" if numbers <= _KEPT_NUMBERS else "lagged"

    def draw(self) -> int:
        """The seed of this step, the same on every process; not negative."""
        return random.Random(f"{self.seed} {self.steps}").getrandbits(48)

    def weights(self, languages: Sequence[Language], gramians: Tensor) -> Tensor:
        """The weights of the languages in each group of parameters.

        Args:
            languages: The languages of the step.
            gramians: The inner products of their gradients in each group, (groups, L, L).

        Returns:
            The weights, (groups, L), float64.
        """
        gramians = gramians.double().cpu()
        weights = torch.full(gramians.shape[:2], 1 / len(languages), dtype=torch.float64)

        for group, gramian in enumerate(gramians):
            # What is not finite goes on as it is into the update, where the Trainer finds it.
            present = gramian.diagonal() > 0
            if not bool(gramian.isfinite().all()) or int(present.sum()) < 2:
                continue

            (places,) = present.nonzero(as_tuple=True)
            members = [languages[place] for place in places.tolist()]
            try:
                found = self._weights(members, gramian[places][:, places], group, len(gramians))
            except ArithmeticError as error:
                self._tell(
                    "weights",
                    f'"{self.method}" found no weights of {members} in step {self.steps + 1}, and'
                    f" the update of θ is the mean of the gradients there ({error}).",
                )
                continue

            # Languages with a gradient of zero count in the mean.
            weights[group, places] = found * (len(members) / len(languages))

        return weights

    def measures(self, languages: Sequence[Language], groups: int) -> bool:
        """Whether inner products of this step go into the running mean.

        At random, since languages may come in turns; and wherever one of a pair is not known yet.
        """
        known = self._pairs.get("mass", groups, languages) > 0
        draw = random.Random(f"{self.seed} {self.steps} measured").random()
        return draw < _MEASURED or not bool(known.all())

    def skip(self) -> None:
        """Count a step whose inner products are not measured."""
        self.steps += 1

    def observe(self, languages: Sequence[Language], gramians: Tensor) -> None:
        """Take the inner products of a step into the running mean, and count the step.

        Args:
            languages: The languages of the step.
            gramians: The inner products of their gradients in each group, (groups, L, L).
        """
        self.steps += 1
        gramians = gramians.double().cpu()
        if not bool(gramians.isfinite().all()):
            return

        self._tell_idle(languages, gramians)
        for name, news in (("products", gramians), ("mass", torch.ones_like(gramians))):
            mean = self._pairs.get(name, len(gramians), languages)
            self._pairs.set(name, languages, mean.lerp(news, _FORGETTING))

    def expected(self, languages: Sequence[Language], groups: int) -> Tensor:
        """The running mean of the inner products, (groups, L, L), float64.

        Of a language that has not been seen, all are 0; of a pair that has not been seen together,
        theirs.
        """
        products = self._pairs.get("products", groups, languages)
        mass = self._pairs.get("mass", groups, languages)
        mean = torch.where(mass > 0, products / mass.clamp_min(_FORGETTING / 2), 0.0)

        # Where languages take turns, pairs have means of different steps, which need not be inner
        # products of any vectors: the nearest that are.
        if bool((mass != mass[:, :1, :1]).any()):
            values, vectors = torch.linalg.eigh(mean)
            mean = vectors * values.clamp_min(0)[:, None] @ vectors.mT
        return mean

    def state(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        """What the next steps depend on: tensors by name, and the rest as JSON has it."""
        rest = {"method": self.method, "steps": self.steps, "languages": self._pairs.languages}
        return self._pairs.state(), rest

    def load_state(self, tensors: Mapping[str, Tensor], rest: Mapping[str, object]) -> None:
        """Take over a state.

        Args:
            tensors: The tensors of `state`.
            rest: The rest of it.

        Raises:
            ValueError: If it is no such state, or one of another method.
        """
        languages, steps = rest.get("languages"), rest.get("steps")
        if rest.get("method") != self.method or not isinstance(steps, int) or steps < 0:
            raise ValueError(f"a state of {rest}")
        if not isinstance(languages, list):
            raise ValueError(f"languages {languages!r}")

        self._pairs.load([str(key) for key in languages], tensors)
        self.steps = steps

    def _weights(
        self, languages: Sequence[Language], gramian: Tensor, group: int, groups: int
    ) -> Tensor:
        """The weights of one group. TorchJD draws from torch's own random numbers."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.draw() + group)
            if self.method != "gradvac":
                return language_weights(self.method, gramian, self._weigh)

            # GradVac keeps its targets by position, but languages may take turns.
            every = self._pairs.get("targets", groups, languages)
            weighting = gradvac()
            weighting.register_buffer("_phi_t", every[group].clone())
            weighting._state_key = (len(languages), gramian.dtype)
            weights = language_weights(self.method, gramian, weighting)

            every[group] = weighting.get_buffer("_phi_t")
            self._pairs.set("targets", languages, every)
            return weights

    def _tell_idle(self, languages: Sequence[Language], gramians: Tensor) -> None:
        """Warn, once, of one language alone, and of languages without a gradient."""
        if len(languages) == 1:
            self._tell(
                "one",
                f'"{self.method}" weighs the gradients of several languages. Found one,'
                f" {languages[0]!r}, in step {self.steps}: the update of θ is its gradient.",
            )

        squares = gramians.diagonal(dim1=1, dim2=2).sum(0)
        for key, square in zip(languages, squares.tolist(), strict=True):
            if square == 0:
                self._tell(
                    f"idle {key}",
                    f"The gradient of θ of {key!r} is zero in step {self.steps}. It counts as zero"
                    f' in the mean, and takes no part in "{self.method}".',
                )

    def _tell(self, what: str, message: str) -> None:
        """Warn once of each thing."""
        if what not in self._told:
            self._told.add(what)
            warnings.warn(message, stacklevel=2)
