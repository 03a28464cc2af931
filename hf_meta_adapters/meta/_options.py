"""The options of the outer step, under the names that every altitude of the package uses."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

import torch

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta._products import (
    Exact,
    FiniteDifference,
    FirstOrder,
    ForwardMode,
    MixedProduct,
)

Estimator: TypeAlias = Literal["exact", "finite_difference", "forward_mode", "first_order"]
Lookahead: TypeAlias = Literal["per_language", "shared", "none"]
MetaLanguages: TypeAlias = Literal["all", "others"]
Scheme: TypeAlias = Literal["central", "one_sided"]


@dataclass(frozen=True)
class MetaOptions:
    """How the meta-gradient is taken.

    Args:
        meta_gradient: The estimator of the mixed product: `"exact"`, `"finite_difference"`,
            `"forward_mode"` or `"first_order"` (which drops the indirect part).
        lookahead: Where the validation losses are differentiated: `"per_language"` (the paper),
            `"shared"`, `"none"`.
        meta_languages: Whose validation losses count for language i: `"all"`, or `"others"` (all
            but i).
        meta_languages_per_step: How many of these languages are drawn for each language i in a
            step, i itself among them if it counts, with weights that keep the meta-gradient
            unbiased: the cost of `lookahead="per_language"` then does not grow with the number of
            languages. `None` takes all.
        inner_steps: K, the number of virtual steps; more than one needs `lookahead="per_language"`.
        finite_difference_scheme: `"central"` or `"one_sided"`.
        finite_difference_radius: ‖εw‖ of the finite difference; `None` derives it from the
            precision.
        max_indirect_ratio: Upper bound on ‖indirect‖ / ‖direct‖ of each language; the indirect part
            is scaled down to it. `None` leaves it alone.
        cpu_offload: Keep v and the copy of θ in the memory of the CPU: two tensors of the size of θ
            less on a GPU, for the time that it takes to bring them parameter by parameter. It needs
            finite differences and one step.

    Raises:
        ConfigurationError: If a value, or two together, cannot work.
    """

    meta_gradient: Estimator = "finite_difference"
    lookahead: Lookahead = "shared"
    meta_languages: MetaLanguages = "all"
    meta_languages_per_step: int | None = None
    inner_steps: int = 1
    finite_difference_scheme: Scheme = "central"
    finite_difference_radius: float | None = None
    max_indirect_ratio: float | None = None
    cpu_offload: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        for name, values in _CHOICES.items():
            _check_choice(name, getattr(self, name), values)
        if not isinstance(self.inner_steps, int) or self.inner_steps < 1:
            raise ConfigurationError(
                f"`inner_steps` must be a whole number of at least 1. Found {self.inner_steps!r}."
                " The paper's is 1."
            )
        least, several = (2 if self.meta_languages == "all" else 1), self.meta_languages_per_step
        if several is not None and (not isinstance(several, int) or several < least):
            raise ConfigurationError(
                f"`meta_languages_per_step` must be a whole number of at least {least}, since"
                " language i is always one "
                f'of them with `meta_languages="all"`, or None for all. Found {several!r}.'
            )
        wants = {
            "Several virtual steps": self.inner_steps > 1,
            "`meta_languages_per_step`": several is not None,
        }
        for what, wanted in wants.items():
            if wanted and self.lookahead != "per_language":
                raise ConfigurationError(
                    f"{what} need a look-ahead of each language. Found"
                    f' `lookahead="{self.lookahead}"`. Write `lookahead="per_language"`, or leave'
                    " it out."
                )
        if self.cpu_offload and (self.meta_gradient, self.inner_steps) != ("finite_difference", 1):
            raise ConfigurationError(
                '`cpu_offload` needs `meta_gradient="finite_difference"` and one virtual step.'
                f' Found "{self.meta_gradient}" and {self.inner_steps}. Leave `cpu_offload` out, or'
                " change these."
            )
        for name in ("finite_difference_radius", "max_indirect_ratio"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigurationError(
                    f"`{name}` must be positive or None. Found {value!r}. Leave it out."
                )

    def product(self, precision: torch.dtype | None = None) -> MixedProduct:
        """The mixed product that the options name, of passes that are evaluated in `precision`."""
        if self.meta_gradient == "finite_difference":
            return FiniteDifference(
                self.finite_difference_scheme, self.finite_difference_radius, precision
            )
        if self.meta_gradient == "forward_mode":
            return ForwardMode()
        return Exact() if self.meta_gradient == "exact" else FirstOrder()


_CHOICES: dict[str, tuple[str, ...]] = {
    "meta_gradient": get_args(Estimator),
    "lookahead": get_args(Lookahead),
    "meta_languages": get_args(MetaLanguages),
    "finite_difference_scheme": get_args(Scheme),
}

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"meta_gradient": "exact", "lookahead": "per_language", "meta_languages": "all"},
    "fast": {
        "meta_gradient": "finite_difference",
        "lookahead": "shared",
        "finite_difference_scheme": "one_sided",
    },
}
"""Named settings; an option given beside a preset wins over it."""


def meta_options(preset: str | None = None, **given: Any) -> MetaOptions:
    """The options of a preset with those that were given in their place.

    Args:
        preset: `"paper"`, `"fast"` or `None` (the defaults).
        **given: Options of `MetaOptions`; `None` means not given.

    Returns:
        The options.

    Raises:
        ConfigurationError: If the preset or an option is unknown, or the options cannot work.

    Example:
        >>> meta_options("paper", lookahead="shared").meta_gradient
        'exact'
    """
    if preset is not None:
        _check_choice("preset", preset, tuple(PRESETS))
    known = [field.name for field in fields(MetaOptions)]
    for name in given:
        if name not in known:
            raise ConfigurationError(
                f"An option of the outer step must be one of {known}. Found {name!r}."
            )
    chosen = {name: value for name, value in given.items() if value is not None}
    return MetaOptions(**{**PRESETS.get(preset or "", {}), **chosen})


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        listed = ", ".join(f'"{choice}"' for choice in choices)
        raise ConfigurationError(f"`{name}` must be one of {listed}. Found {value!r}.")
