"""The arguments of `MetaAdapterTrainer`, on top of those of `transformers.TrainingArguments`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from transformers import TrainingArguments

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta import MetaOptions, meta_options
from hf_meta_adapters.training._launch_checks import check_launch

ADAPTER_UPDATES = ("meta", "meta+train", "train")
UPDATE_ORDERS = ("simultaneous", "alternating")
INNER_OPTIMIZERS = ("sgd", "adam")

_DEFAULTS: dict[str, Any] = {
    "adapter_update": "meta",
    "update_order": "simultaneous",
    "inner_optimizer": "sgd",
}
_PRESETS: dict[str, dict[str, Any]] = {"paper": {"update_order": "alternating"}, "fast": {}}
_ADAPTER_RATES = {"paper": 1.0}
_ADAPTER_RATE = 2.0
_OPTIONS = (
    "meta_gradient",
    "lookahead",
    "meta_languages",
    "meta_languages_per_step",
    "inner_steps",
    "finite_difference_scheme",
    "finite_difference_radius",
    "max_indirect_ratio",
    "cpu_offload",
)


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class MetaAdapterTrainingArguments(TrainingArguments):
    """How θ and the φ_l are updated, in which order, from how much text of which languages.

    Everything of `transformers.TrainingArguments` holds: `learning_rate` is that of θ,
    `per_device_train_batch_size` counts the rows of *one language* in a step. An argument left at
    `None` is filled in from the preset, or from the defaults without one. What was filled in counts
    as given from then on: `dataclasses.replace` can change any argument but the preset.

    Args:
        preset: `"paper"` (Algorithm 1 as published: exact gradients, a look-ahead per language, φ
            by the meta-gradient alone, then θ) or `"fast"`. An argument given beside it wins.
        meta_gradient: The estimator of the second-order part: `"exact"`, `"finite_difference"`,
            `"forward_mode"`, `"first_order"`.
        lookahead: Where validation losses are differentiated: `"per_language"`, `"shared"`,
            `"none"`.
        meta_languages: Whose validation loss counts for a language: `"all"` or `"others"`.
        meta_languages_per_step: How many of these are drawn for each language in a step; `None` for
            all. It needs `lookahead="per_language"`, whose cost then does not grow with the number
            of languages.
        inner_steps: The number of virtual steps.
        finite_difference_scheme: `"central"` or `"one_sided"`.
        finite_difference_radius: The length of the finite difference in the space of θ; `None` for
            automatic.
        max_indirect_ratio: Upper bound on ‖indirect‖ / ‖direct‖ of each language; `None` for none.
        cpu_offload: Keep the copy of θ and the validation gradient in the memory of the CPU between
            uses; needs `"finite_difference"`.
        inner_optimizer: The virtual step: `"sgd"` (the paper's), or `"adam"`, the step that the
            optimizer would take.
        inner_learning_rate: β, the rate of the virtual step; `None` takes the present learning rate
            of θ. Default 0.01.
        adapter_learning_rate: The learning rate of φ; `None` takes twice that of θ, the paper's
            preset that of θ, and training without θ `learning_rate`.
        adapter_update: What updates φ: `"meta"` (the meta-gradient, as in Algorithm 1; the
            default), `"meta+train"` (plus the training gradient, as in the authors' code), or
            `"train"` (joint training of adapters, a baseline; no meta text is needed).
        update_order: `"simultaneous"` (one optimizer step for θ and φ from the same passes) or
            `"alternating"` (first φ, then θ with the new φ, at the price of one more training
            pass).
        meta_batch_size: Rows of meta text per language and device; `None` for
            `per_device_train_batch_size`.
        meta_every: Take the meta-gradient in every k-th step only. In between, φ is updated by its
            training gradient if `adapter_update` has one, else not at all.
        languages_per_step: How many languages a step holds; `None` for all.
        sampling_temperature: α of the sampling q_l ∝ n_l^α where a step does not hold all
            languages: 1 samples in proportion to the sizes, 0 uniformly. A temperature T is written
            as α = 1/T.
        fidelity_check_steps: Compare the meta-gradient with the exact one every so many steps, on a
            few rows; 0 for never. The cosine is logged as `meta_fidelity`.
        min_fidelity: The least cosine: under it the run goes on with a safer setting (a look-ahead
            per language with two validation languages drawn, then the exact gradient) and says so.
        skip_nonfinite_steps: How many steps of a run may be skipped where a loss or a gradient is
            not finite: nothing is updated then, and `nonfinite_steps` is logged. The next one stops
            the run.
        sparse_head: Evaluate the language-model head at labelled positions only, for the same loss
            from less arithmetic and memory; `None` where the model can do it (see `SparseHead`),
            `True` or else an error, `False` never.
        languages_per_pass: How many languages share a forward pass, where method and loss allow it
            (see `RoutedLoss`). More keep an accelerator busier and take more memory. It needs
            `lookahead="shared"` or `"none"`.

    Raises:
        ConfigurationError: If a value, or two together, cannot work.

    Example:
        >>> args = MetaAdapterTrainingArguments(output_dir="outputs/mine", preset="paper", report_to="none")
        >>> args.meta_gradient, args.lookahead, args.update_order
        ('exact', 'per_language', 'alternating')
    """

    preset: str | None = field(default=None, metadata=_help('"paper", "fast" or none.'))
    meta_gradient: str | None = field(
        default=None, metadata=_help("Estimator of the second-order part.")
    )
    lookahead: str | None = field(
        default=None, metadata=_help("Where validation losses are differentiated.")
    )
    meta_languages: str | None = field(default=None, metadata=_help('"all" or "others".'))
    meta_languages_per_step: int | None = field(
        default=None, metadata=_help("How many of these; none for all.")
    )
    inner_steps: int | None = field(default=None, metadata=_help("Number of virtual steps."))
    finite_difference_scheme: str | None = field(
        default=None, metadata=_help('"central" or "one_sided".')
    )
    finite_difference_radius: float | None = field(
        default=None, metadata=_help("Length of the finite difference.")
    )
    max_indirect_ratio: float | None = field(
        default=None, metadata=_help("Bound on the indirect part.")
    )
    cpu_offload: bool | None = field(
        default=None, metadata=_help("Keep what the outer step stores on the CPU.")
    )
    inner_optimizer: str | None = field(
        default=None, metadata=_help('The virtual step: "sgd" or "adam".')
    )
    inner_learning_rate: float | None = field(
        default=0.01, metadata=_help("Rate of the virtual step.")
    )
    adapter_learning_rate: float | None = field(
        default=None, metadata=_help("Learning rate of the adapters.")
    )
    adapter_update: str | None = field(
        default=None, metadata=_help('"meta", "meta+train" or "train".')
    )
    update_order: str | None = field(
        default=None, metadata=_help('"simultaneous" or "alternating".')
    )
    meta_batch_size: int | None = field(
        default=None, metadata=_help("Rows of meta text per language and device.")
    )
    meta_every: int = field(
        default=1, metadata=_help("Take the meta-gradient in every k-th step only.")
    )
    languages_per_step: int | None = field(
        default=None, metadata=_help("Languages in a step; none for all.")
    )
    sampling_temperature: float = field(default=0.7, metadata=_help("α of q_l ∝ n_l^α."))
    fidelity_check_steps: int = field(
        default=500, metadata=_help("Steps between comparisons with the exact one.")
    )
    min_fidelity: float = field(
        default=0.9, metadata=_help("The least cosine to the exact meta-gradient.")
    )
    skip_nonfinite_steps: int = field(
        default=0, metadata=_help("Non-finite steps that may be skipped in a run.")
    )
    sparse_head: bool | None = field(
        default=None, metadata=_help("Head at labelled positions only.")
    )
    languages_per_pass: int = field(
        default=1, metadata=_help("Languages that share a forward pass.")
    )

    def __post_init__(self) -> None:
        """Fill in the preset and check everything before any work starts."""
        options = self.meta_options()
        filled = {**_DEFAULTS, **_PRESETS.get(self.preset or "", {})}
        for name in _OPTIONS:
            setattr(self, name, getattr(options, name))
        for name, value in filled.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        self._check()
        check_launch(self.deepspeed)
        super().__post_init__()
        self._check_checkpointing()

    def method(self) -> dict[str, Any]:
        """The arguments that are not those of `transformers.TrainingArguments`, for the record."""
        others = {argument.name for argument in fields(TrainingArguments)}
        return {own.name: getattr(self, own.name) for own in fields(self) if own.name not in others}

    def adapter_rate(self, *, beside_shared: bool) -> float:
        """The learning rate of φ: `adapter_learning_rate`, or what stands for `None`.

        Args:
            beside_shared: Whether θ is trained too.

        Returns:
            The rate, before the schedule.
        """
        if self.adapter_learning_rate is not None:
            return self.adapter_learning_rate
        return self.learning_rate * (
            _ADAPTER_RATES.get(self.preset or "", _ADAPTER_RATE) if beside_shared else 1.0
        )

    def meta_options(self) -> MetaOptions:
        """The options of the outer step."""
        return meta_options(self.preset, **{name: getattr(self, name) for name in _OPTIONS})

    def _check(self) -> None:
        for name, values in (
            ("adapter_update", ADAPTER_UPDATES),
            ("update_order", UPDATE_ORDERS),
            ("inner_optimizer", INNER_OPTIMIZERS),
        ):
            if getattr(self, name) not in values:
                listed = ", ".join(f'"{value}"' for value in values)
                raise ConfigurationError(
                    f"`{name}` must be one of {listed}. Found {getattr(self, name)!r}."
                )
        counts = ("per_device_train_batch_size", "gradient_accumulation_steps")
        for name in (
            "meta_batch_size",
            "meta_every",
            "languages_per_step",
            "languages_per_pass",
            *counts,
        ):
            value = getattr(self, name)
            if (value is not None or name in counts) and (not isinstance(value, int) or value < 1):
                raise ConfigurationError(
                    f"`{name}` must be a whole number of at least 1. Found {value!r}."
                )
        for name in ("fidelity_check_steps", "skip_nonfinite_steps"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ConfigurationError(
                    f"`{name}` must be a whole number, or 0 for never. Found {value!r}."
                )
        if not (isinstance(self.min_fidelity, (int, float)) and -1 <= self.min_fidelity < 1):
            raise ConfigurationError(
                "`min_fidelity` is a cosine and must be at least -1 and under 1. Found"
                f" {self.min_fidelity!r}."
            )
        if not isinstance(self.max_steps, int):
            raise ConfigurationError(
                f"`max_steps` must be a whole number, -1 for epochs. Found {self.max_steps!r}."
            )
        for name in ("learning_rate", "inner_learning_rate", "adapter_learning_rate"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and value >= 0):
                hint = " YAML reads 1e-3 as a text: write 1.0e-3." if isinstance(value, str) else ""
                raise ConfigurationError(
                    f"`{name}` must be a number of at least 0 or None. Found {value!r}.{hint}"
                )
        if not (
            isinstance(self.sampling_temperature, (int, float))
            and 0 <= self.sampling_temperature <= 1
        ):
            raise ConfigurationError(
                "`sampling_temperature` is the exponent α of q ∝ n^α and must be in [0, 1]. Found"
                f" {self.sampling_temperature!r}. Write a temperature T as α = 1/T, for example 0.2"
                " for T = 5."
            )
        if self.fp16 and self.update_order == "alternating":
            raise ConfigurationError(
                'fp16 scales one loss per optimizer step, and `update_order="alternating"` takes'
                ' several. Write `bf16=True` or `update_order="simultaneous"`.'
            )

    def _check_checkpointing(self) -> None:
        """Reentrant checkpoints know no `torch.autograd.grad`; transformers 4 makes them unless told otherwise."""
        given = self.gradient_checkpointing_kwargs or {}
        if given.get("use_reentrant"):
            raise ConfigurationError(
                "Gradient checkpointing must not be reentrant, since gradients are taken of chosen"
                f" parameters. Found {given}. Write"
                " `gradient_checkpointing_kwargs={'use_reentrant': False}` or leave it out."
            )
        if self.gradient_checkpointing and not hasattr(self, "activation_checkpointing"):
            self.gradient_checkpointing_kwargs: dict[str, Any] | None = {
                "use_reentrant": False,
                **given,
            }
