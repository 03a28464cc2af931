"""The options of the outer step, under the names that every altitude of the package uses."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, get_args

import torch

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta._exact import Exact
from hf_meta_adapters.meta._finite_difference import FiniteDifference, Scheme
from hf_meta_adapters.meta._first_order import FirstOrder
from hf_meta_adapters.meta._forward_mode import ForwardMode
from hf_meta_adapters.meta._indirect_size import IndirectSize, Scope
from hf_meta_adapters.meta._meta_languages import MetaLanguages, named_weights
from hf_meta_adapters.meta._mixed_product import MixedProduct
from hf_meta_adapters.meta._mixed_samples import check_mixed_languages, check_mixed_rows
from hf_meta_adapters.meta._projection import Groups
from hf_meta_adapters.meta.weightings import METHODS

if TYPE_CHECKING:
    from typing_extensions import Unpack

Estimator: TypeAlias = Literal["exact", "finite_difference", "forward_mode", "first_order"]
SharedUpdate: TypeAlias = Literal["mean", "project"]
Lookahead: TypeAlias = Literal["per_language", "shared", "none", "next"]


@dataclass(frozen=True)
class MetaOptions:
    """How the meta-gradient is taken.

    Args:
        meta_gradient: The estimator of the mixed product: `"exact"`, `"finite_difference"`,
            `"forward_mode"` or `"first_order"` (which drops the indirect part).
        lookahead: Where the validation losses are differentiated: `"per_language"` (the paper),
            `"shared"`, `"none"`, or `"next"`: after the step that the optimizer really takes, with
            the training losses of the next step for validation losses.
        meta_languages: Whose validation losses count for language i: `"all"`, `"others"` (all but
            i), a list of languages, or a dict of their weights. Languages that are named need not
            be training languages: one that only trains has an indirect part alone, one that only
            validates a direct part alone.
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
        indirect_ratio: The indirect part is scaled to ‖indirect‖ = `indirect_ratio` · ‖direct‖,
            down or up. `None` leaves it alone.
        indirect_ratio_scope: Whether these norms are those of all languages together (`"all"`), or
            of each language (`"language"`).
        shared_update: How θ is updated: by the `"mean"` of the training gradients, or by its
            projection (`"project"`), without the part that opposes v.
        shared_update_groups: Whether the whole `"model"` is projected at once, or each `"layer"`.
        mixed_rows: The share of the training rows of which the mixed product is taken; the rest
            counts for the training gradient alone. The product is then an estimate without bias,
            for a price that falls with the share. It needs one virtual step.
        mixed_languages: The share of the languages whose mixed products a step takes: others in
            each, without bias. Half of the languages cost less than half the rows of every
            language, since no pass is divided.
        cpu_offload: Keep v and the copy of θ in CPU memory. This saves two tensors of the size of θ
            on the GPU and costs the time to bring them back parameter by parameter. It needs finite
            differences and one virtual step.

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
    indirect_ratio: float | None = None
    indirect_ratio_scope: Scope = "all"
    shared_update: SharedUpdate = "mean"
    shared_update_groups: Groups = "model"
    mixed_rows: float = 1.0
    mixed_languages: float = 1.0
    cpu_offload: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        _check_choice("meta_gradient", self.meta_gradient, get_args(Estimator))
        _check_choice("lookahead", self.lookahead, get_args(Lookahead))
        named_weights(self.meta_languages)
        _check_choice("finite_difference_scheme", self.finite_difference_scheme, get_args(Scheme))
        _check_choice("indirect_ratio_scope", self.indirect_ratio_scope, get_args(Scope))
        self._check_shared_update()
        _check_choice("shared_update_groups", self.shared_update_groups, get_args(Groups))

        if not isinstance(self.inner_steps, int) or self.inner_steps < 1:
            raise ConfigurationError(
                f"`inner_steps` must be a whole number of at least 1. Found {self.inner_steps!r}."
                " The paper uses 1."
            )

        self._check_parts()
        self._check_draw()
        self._check_lookahead()
        self._check_offload()
        _check_positive("finite_difference_radius", self.finite_difference_radius)
        _check_positive("max_indirect_ratio", self.max_indirect_ratio)
        _check_positive("indirect_ratio", self.indirect_ratio)
        self._check_ratio()
        self._check_next()
        self._check_projection()
        check_mixed_rows(
            self.mixed_rows, meta_gradient=self.meta_gradient, inner_steps=self.inner_steps
        )
        check_mixed_languages(
            self.mixed_languages,
            meta_gradient=self.meta_gradient,
            indirect_ratio_scope=None if self.indirect_ratio is None else self.indirect_ratio_scope,
        )

    def product(self, precision: torch.dtype | None = None) -> MixedProduct:
        """The mixed product that the options name, for passes evaluated in `precision`."""
        if self.meta_gradient == "exact":
            return Exact()
        if self.meta_gradient == "forward_mode":
            return ForwardMode()
        if self.meta_gradient == "first_order":
            return FirstOrder()

        return FiniteDifference(
            self.finite_difference_scheme, self.finite_difference_radius, precision
        )

    def indirect_size(self) -> IndirectSize:
        """How large the indirect part is to be."""
        return IndirectSize(self.indirect_ratio, self.indirect_ratio_scope, self.max_indirect_ratio)

    def named_meta_languages(self) -> dict[Language, float] | None:
        """The weights of the meta languages where these are named, and sum to 1; else `None`."""
        return named_weights(self.meta_languages)

    def _check_parts(self) -> None:
        if self.meta_gradient == "first_order" and self.meta_languages == "others":
            raise ConfigurationError(
                '`meta_gradient="first_order"` keeps the direct part of the meta-gradient alone,'
                ' and `meta_languages="others"` has no direct part. Found both. Use'
                ' `meta_languages="all"` or another estimator.'
            )

    def _check_draw(self) -> None:
        count = self.meta_languages_per_step

        if count is None:
            return

        # Language i itself is never left to chance: the direct part depends on it.
        least = 2
        if self.meta_languages == "others":
            least = 1
        if not isinstance(count, int) or count < least:
            raise ConfigurationError(
                f"`meta_languages_per_step` must be a whole number of at least {least}, since"
                " language i itself is always one of them, if it counts. Found"
                f" {count!r}. Use None for all languages."
            )

    def _check_lookahead(self) -> None:
        if self.lookahead == "per_language":
            return

        for feature, is_used in (
            ("Several virtual steps", self.inner_steps > 1),
            ("`meta_languages_per_step`", self.meta_languages_per_step is not None),
        ):
            if is_used:
                raise ConfigurationError(
                    f"{feature} need a look-ahead per language. Found"
                    f' `lookahead="{self.lookahead}"`. Set `lookahead="per_language"`, or leave'
                    " the option out."
                )

    def _check_ratio(self) -> None:
        if self.indirect_ratio is None:
            return

        is_first_order = self.meta_gradient == "first_order"
        for found, lacks in (
            ('`meta_gradient="first_order"`, which has no indirect part', is_first_order),
            (
                '`meta_languages="others"`, which has no direct part',
                self.meta_languages == "others",
            ),
        ):
            if lacks:
                raise ConfigurationError(
                    "`indirect_ratio` holds the size of the indirect part beside the direct part,"
                    f" and needs both. Found {found}. Leave `indirect_ratio` out, or use another"
                    " setting."
                )

        if self.max_indirect_ratio is not None:
            raise ConfigurationError(
                "`indirect_ratio` holds ‖indirect‖ / ‖direct‖ at a value, `max_indirect_ratio`"
                f" bounds it. Found both, {self.indirect_ratio} and {self.max_indirect_ratio}. Keep"
                " one of them."
            )

    def _check_next(self) -> None:
        if self.lookahead == "next" and self.meta_languages != "all":
            raise ConfigurationError(
                '`lookahead="next"` validates on the training losses of the next step, of all'
                f" languages. Found `meta_languages={self.meta_languages!r}`. Leave it out, or use"
                ' `lookahead="shared"`.'
            )

    def _check_shared_update(self) -> None:
        if self.shared_update in METHODS:
            raise ConfigurationError(
                "`shared_update` of a step is `mean` or `project`; gradient surgery remembers"
                f" earlier steps and is passed as an object. Found {self.shared_update!r}. Pass"
                f' `surgery=Surgery("{self.shared_update}")`, the same in every step.'
            )
        _check_choice("shared_update", self.shared_update, get_args(SharedUpdate))

    def _check_projection(self) -> None:
        if self.shared_update != "project":
            return

        for found, is_used in (
            (
                '`meta_gradient="first_order"`, which does not compute it',
                self.meta_gradient == "first_order",
            ),
            ('`lookahead="next"`, for which it is the training gradient', self.lookahead == "next"),
            ("`cpu_offload=True`, which moves it to the CPU", self.cpu_offload),
        ):
            if is_used:
                raise ConfigurationError(
                    '`shared_update="project"` compares the training gradient of θ with the'
                    f" validation gradient v. Found {found}. Leave one of the two out."
                )

    def _check_offload(self) -> None:
        needed = ("finite_difference", 1)

        if self.cpu_offload and self.lookahead == "next":
            raise ConfigurationError(
                '`lookahead="next"` keeps what it needs on the device of the model. Found'
                " `cpu_offload=True`. Leave it out."
            )

        # Exact products and Hessian-vector products mix v with tensors on the GPU.
        if self.cpu_offload and (self.meta_gradient, self.inner_steps) != needed:
            raise ConfigurationError(
                '`cpu_offload` needs `meta_gradient="finite_difference"` and one virtual step.'
                f' Found "{self.meta_gradient}" and {self.inner_steps}. Set these two, or leave'
                " `cpu_offload` out."
            )


OPTION_NAMES: tuple[str, ...] = tuple(field.name for field in fields(MetaOptions))
"""The names of the options, in the order of `MetaOptions`."""


class MetaOptionKeywords(TypedDict, total=False):
    """The fields of `MetaOptions` as keyword arguments; `None` means not given."""

    # A type checker needs the names written out; a test compares them with `MetaOptions`.
    meta_gradient: Estimator | None
    lookahead: Lookahead | None
    meta_languages: MetaLanguages | None
    meta_languages_per_step: int | None
    inner_steps: int | None
    finite_difference_scheme: Scheme | None
    finite_difference_radius: float | None
    max_indirect_ratio: float | None
    indirect_ratio: float | None
    indirect_ratio_scope: Scope | None
    shared_update: SharedUpdate | None
    shared_update_groups: Groups | None
    mixed_rows: float | None
    mixed_languages: float | None
    cpu_offload: bool | None


PRESETS: dict[str, dict[str, str]] = {
    "paper": {"meta_gradient": "exact", "lookahead": "per_language", "meta_languages": "all"},
    "fast": {
        "meta_gradient": "finite_difference",
        "lookahead": "shared",
        "finite_difference_scheme": "one_sided",
    },
}
"""Named settings; an option passed beside a preset overrides it."""


def meta_options(preset: str | None = None, **keywords: Unpack[MetaOptionKeywords]) -> MetaOptions:
    """The options of a preset, overridden by those that are passed.

    Args:
        preset: `"paper"`, `"fast"` or `None` (the defaults).
        **keywords: Options of `MetaOptions`; `None` means not given.

    Returns:
        The options.

    Raises:
        ConfigurationError: If the preset or an option is unknown, or the options cannot work.

    Example:
        >>> meta_options("paper", lookahead="shared").meta_gradient
        'exact'
    """
    chosen: dict[str, Any] = {}
    if preset is not None:
        _check_choice("preset", preset, tuple(PRESETS))
        chosen.update(PRESETS[preset])

    for name, value in keywords.items():
        if name not in OPTION_NAMES:
            raise ConfigurationError(
                f"An option of the outer step must be one of {list(OPTION_NAMES)}. Found {name!r}."
            )
        if value is not None:
            chosen[name] = value

    return MetaOptions(**chosen)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        listed = ", ".join(f'"{choice}"' for choice in choices)
        raise ConfigurationError(f"`{name}` must be one of {listed}. Found {value!r}.")


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise ConfigurationError(
            f"`{name}` must be positive or None. Found {value!r}. Leave it out."
        )
