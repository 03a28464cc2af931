"""The arguments of `MetaAdapterTrainer`, on top of those of `transformers.TrainingArguments`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from transformers import TrainingArguments

from hf_meta_adapters.data.sampling_plan import SamplingPlan
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta import MetaOptions, meta_options
from hf_meta_adapters.training._argument_checks import (
    check_beta,
    check_choice,
    check_cosine,
    check_count,
    check_epsilon,
    check_exponent,
    check_norm,
    check_positive,
    check_rate,
    check_share,
    parsed_languages,
)
from hf_meta_adapters.training._combined_arguments import check_combinations
from hf_meta_adapters.training._inherited_arguments import (
    check_accelerator_config,
    check_inherited,
    check_known,
)
from hf_meta_adapters.training._pass_arguments import check_size, parsed_size
from hf_meta_adapters.training._process_group import start_process_group
from hf_meta_adapters.training._sample_arguments import (
    check_sample_arguments,
    parsed_rows,
    row_options,
)
from hf_meta_adapters.training._sampling_arguments import (
    DEFAULT_ALPHA,
    SAMPLINGS,
    check_leaves_some_out,
    sampling_plan,
)
from hf_meta_adapters.training._surgery_arguments import check_surgery_arguments, step_options
from hf_meta_adapters.training._unsupported_launch import check_launch

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

_OPTIONS = tuple(option.name for option in fields(MetaOptions))
"""The arguments that go to the outer step; `meta_options` fills them in and checks them."""

_DEFAULTS = {"adapter_update": "meta", "update_order": "simultaneous", "inner_optimizer": "sgd"}
_PRESETS: Mapping[str, Mapping[str, str]] = {"paper": {"update_order": "alternating"}}

# The learning rate of φ as a multiple of that of θ.
_ADAPTER_RATE = 2.0
_ADAPTER_RATES = {"paper": 1.0}

_CHOICES = {
    "adapter_update": ("meta", "meta+train", "train"),
    "update_order": ("simultaneous", "alternating"),
    "inner_optimizer": ("sgd", "adam"),
    "sampling": SAMPLINGS,
}
_POSITIVE = (
    "meta_every",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
)
_POSITIVE_OR_NONE = ("meta_batch_size", "languages_per_step", "reptile_steps")
_COUNTS = ("fidelity_check_steps", "skip_nonfinite_steps")
_RATES = ("learning_rate", "weight_decay")
_RATES_OR_NONE = ("inner_learning_rate", "adapter_learning_rate", "embedding_learning_rate")
_BETAS = ("adam_beta1", "adam_beta2")


def option(default: T, explanation: str) -> T:
    """A field of a dataclass of arguments, with the text that `--help` shows.

    Args:
        default: Its default.
        explanation: The text.

    Returns:
        What to assign to the field in the class body.
    """
    return field(default=default, metadata={"help": explanation})


@dataclass
class MetaAdapterTrainingArguments(TrainingArguments):
    """How θ and the φ_l are updated, in which order, from how much text of which languages.

    Those of `transformers.TrainingArguments` are available: `learning_rate` is that of θ,
    `per_device_train_batch_size` counts the rows of *one language* in a step. The few that an outer
    step cannot honour (`use_liger_kernel`, say) are refused by name. An argument left at
    `None` is filled in from the preset, or from the defaults without one. What was filled in counts
    as given from then on: `dataclasses.replace` can change any argument but the preset.

    Args:
        preset: `"paper"` (Algorithm 1 as published: exact gradients, a look-ahead per language, φ
            by the meta-gradient alone, then θ) or `"fast"`. An argument that is given as well wins.
        meta_gradient: The estimator of the second-order part: `"exact"`, `"finite_difference"`,
            `"forward_mode"`, `"first_order"`.
        lookahead: Where validation losses are differentiated: `"per_language"`, `"shared"`,
            `"none"`, or `"next"`: after the step that the optimizer really takes, on the training
            text of the next step (see `next_step`). It needs no meta text.
        meta_languages: Whose validation loss counts for a language: `"all"`, `"others"`, a list of
            languages or a dict of their weights (in YAML, or as JSON on a command line). Languages
            that are named are in every step, and need not be training languages.
        meta_languages_per_step: How many of these are drawn for each language in a step; `None` for
            all. It needs `lookahead="per_language"`, whose cost then does not grow with the number
            of languages.
        inner_steps: The number of virtual steps.
        finite_difference_scheme: `"central"` or `"one_sided"`.
        finite_difference_radius: The length of the finite difference in the space of θ; `None` for
            automatic.
        max_indirect_ratio: Upper bound on ‖indirect‖ / ‖direct‖ of each language; `None` for none.
        indirect_ratio: Scale the indirect part to ‖indirect‖ = `indirect_ratio` · ‖direct‖; `None`
            leaves it as it is.
        indirect_ratio_scope: Whether these norms are those of all languages together (`"all"`), or
            of each language (`"language"`).
        shared_update: How θ is updated: by the `"mean"` of the languages' training gradients, or
            by its projection (`"project"`), without the part that opposes the gradient of the
            validation losses. In steps without a meta-gradient (`meta_every`), by the mean. Or by a
            sum with weights that a method of TorchJD finds, for example `"pcgrad"`, `"gradvac"`,
            `"upgrad"` or `"cagrad"`: `Surgery` lists them. They need the extra `surgery`.
        shared_update_groups: Whether the whole `"model"` is projected, or weighed, at once, or each
            `"layer"` by itself.
        surgery_gradients: Where weights come from: `"keep"`, `"sketch"`, `"lagged"`, or `"auto"`
            (see `Surgery`).
        mixed_rows: The share of the training rows of which the second-order part is taken: 0.5
            takes half of them, without bias, and makes the outer step cheaper. `"auto"` chooses it
            in training: the least share with which the meta-gradient has a cosine of 0.95 to that
            of all rows, as measured from time to time (`mixed_rows` and `mixed_rows_cosine` in the
            log).
        mixed_languages: The share of the languages of which a step takes the second-order part:
            others in each step, without bias.
        cpu_offload: Keep the copy of θ and the validation gradient in the memory of the CPU between
            uses; needs `"finite_difference"`.
        inner_optimizer: The virtual step: `"sgd"` (the paper's), or `"adam"`, the step that the
            optimizer would take.
        inner_learning_rate: β, the rate of the virtual step; `None` takes the present learning rate
            of θ. Default 0.01.
        adapter_learning_rate: The learning rate of φ; `None` takes twice that of θ, the paper's
            preset that of θ, and training without θ `learning_rate`.
        embedding_learning_rate: The learning rate of the parameters of θ in the input and output
            embeddings, such as rows of new tokens (`extend_vocabulary`); `None` takes that of θ.
        adapter_update: What updates φ: `"meta"` (the meta-gradient, as in Algorithm 1; the
            default), `"meta+train"` (plus the training gradient, as in the authors' code), or
            `"train"` (joint training of adapters, a baseline; no meta text is needed).
        update_order: `"simultaneous"` (one optimizer step for θ and φ from the same passes; the
            default) or `"alternating"` (first φ, then θ with the new φ, at the price of one more
            training pass).
        meta_batch_size: Rows of meta text per language and device; `None` for
            `per_device_train_batch_size`.
        meta_every: Take the meta-gradient in every k-th step only. In between, φ is updated by its
            training gradient if `adapter_update` has one or under `lookahead="next"`, otherwise not
            at all.
        languages_per_step: How many languages a step holds; `None` for all.
        sampling: How often each language is in a step, where a step does not hold all:
            `"temperature"` (in proportion to n_l^α for n_l rows), `"unimax"` (equally often, but
            none of its rows more than `sampling_max_epochs` times; see `UniMax`), or `"cooldown"`
            (by an α that rises from `sampling_alpha` to `sampling_end_alpha` in ten parts of the
            run; see `Cooldown`). The last two plan the whole run, whose length must not change
            where it is resumed.
        sampling_alpha: α of q_l ∝ n_l^α: 1 samples in proportion to the sizes, 0 uniformly. For a
            temperature T use α = 1/T.
        sampling_max_epochs: How often `"unimax"`, which needs it, reads the rows of a language at
            most in the run.
        sampling_end_alpha: α at the end of `"cooldown"`; `None` for 1.
        language_weights: How much the training loss of each language counts in the update of θ:
            `"uniform"` (the mean), `"alignment"` (more if its gradient agrees with the gradient v
            of the validation losses; see `Alignment`), or `"famo"` (such that all losses fall at
            the same rate; see `Famo`). The weights sum to 1 in a step, and are logged as
            `weight_<language>`. Those of `meta_languages` are weights of validation losses.
        language_weights_rate: The step size of learned weights; `None` for 0.01 with `"alignment"`
            and 0.025 with `"famo"`.
        reptile_steps: K of Sequential Reptile (Lee et al. 2022): θ is trained in loops of K steps
            of the optimizer, each in one language, and moved from the beginning of each loop
            towards its end. It needs `languages_per_step=1`; φ_l is trained in the steps of its
            language. `None` for no loops.
        reptile_rate: η, the share of the way that θ is moved, θ ← θ_0 + η (θ_K − θ_0), above 0 and
            at most 1; `None` takes 0.1.
        fidelity_check_steps: Compare the meta-gradient with the exact one every so many steps, on a
            few rows; 0 for never. The cosine is logged as `meta_fidelity`.
        min_fidelity: The least cosine: below it the run continues with a safer setting (a
            look-ahead per language with two validation languages drawn, then the exact gradient)
            and warns.
        skip_nonfinite_steps: How many steps of a run may be skipped because a loss or a gradient is
            not finite: nothing is updated then, and `nonfinite_steps` is logged. One more stops the
            run.
        sparse_head: Evaluate the language-model head at labelled positions only, for the same loss
            from less arithmetic and memory. `None`: where the model can do it (see `SparseHead`);
            `True`: required; `False`: off.
        languages_per_pass: How many languages share a forward pass, where method and loss allow it
            (see `RoutedLoss`). More keep an accelerator busier and take more memory. It needs a
            look-ahead that is not per language. `"auto"` begins with 1, and on a CUDA device takes
            as many as fit into its memory from the fifth step on; elsewhere, and where languages
            cannot share a pass, it is 1. The log has the number as `languages_per_pass`.
        sampling_temperature: Deprecated: the old name of `sampling_alpha`. Despite the name, it is
            the exponent α = 1/T.

    Raises:
        ConfigurationError: If a value, or two together, cannot work.

    Example:
        >>> args = MetaAdapterTrainingArguments("outputs/mine", preset="paper", report_to="none")
        >>> args.meta_gradient, args.lookahead, args.update_order
        ('exact', 'per_language', 'alternating')
    """

    preset: str | None = option(None, '"paper", "fast" or none.')
    meta_gradient: str | None = option(None, "Estimator of the second-order part.")
    lookahead: str | None = option(None, "Where validation losses are differentiated.")
    # The second type is what the command line reads.
    meta_languages: Sequence[str] | str | Mapping[str, float] | None = option(
        None, '"all", "others", or a JSON list or dict of languages.'
    )
    meta_languages_per_step: int | None = option(None, "How many of these; none for all.")
    inner_steps: int | None = option(None, "Number of virtual steps.")
    finite_difference_scheme: str | None = option(None, '"central" or "one_sided".')
    finite_difference_radius: float | None = option(None, "Length of the finite difference.")
    max_indirect_ratio: float | None = option(None, "Bound on the indirect part.")
    indirect_ratio: float | None = option(None, "Size of the indirect part.")
    indirect_ratio_scope: str | None = option(None, 'Whose sizes: "all" or "language".')
    shared_update: str | None = option(None, 'How θ is updated: "mean", "project", "pcgrad", …')
    shared_update_groups: str | None = option(None, 'What is changed: "model" or "layer".')
    surgery_gradients: str = option("auto", '"keep", "sketch", "lagged" or "auto".')
    # Likewise; the text is parsed here.
    mixed_rows: float | str | None = option(
        None, 'Share of the rows in the second-order part, or "auto".'
    )
    mixed_languages: float | None = option(None, "Share of the languages in the second-order part.")
    cpu_offload: bool | None = option(None, "Keep what the outer step stores on the CPU.")
    inner_optimizer: str = option(
        _DEFAULTS["inner_optimizer"], 'The virtual step: "sgd" or "adam".'
    )
    inner_learning_rate: float | None = option(0.01, "Rate of the virtual step.")
    adapter_learning_rate: float | None = option(None, "Learning rate of the adapters.")
    embedding_learning_rate: float | None = option(None, "Learning rate of embeddings in θ.")
    adapter_update: str = option(_DEFAULTS["adapter_update"], '"meta", "meta+train" or "train".')
    update_order: str | None = option(None, '"simultaneous" or "alternating".')
    meta_batch_size: int | None = option(None, "Rows of meta text per language and device.")
    meta_every: int = option(1, "Take the meta-gradient in every k-th step only.")
    languages_per_step: int | None = option(None, "Languages in a step; none for all.")
    sampling: str = option("temperature", '"temperature", "unimax" or "cooldown".')
    sampling_alpha: float = option(DEFAULT_ALPHA, "α of q_l ∝ n_l^α.")
    sampling_max_epochs: float | None = option(None, 'Most passes over a language, "unimax".')
    sampling_end_alpha: float | None = option(None, 'The last α, "cooldown"; none for 1.')
    language_weights: str = option("uniform", '"uniform", "alignment" or "famo".')
    language_weights_rate: float | None = option(None, "Step size of learned weights.")
    reptile_steps: int | None = option(None, "Steps of a loop of Sequential Reptile.")
    reptile_rate: float | None = option(None, "Share of a loop's way that θ is moved.")
    fidelity_check_steps: int = option(500, "Steps between comparisons with the exact one.")
    min_fidelity: float = option(0.9, "The least cosine to the exact meta-gradient.")
    skip_nonfinite_steps: int = option(0, "Non-finite steps that may be skipped in a run.")
    sparse_head: bool | None = option(None, "Head at labelled positions only.")
    # Likewise.
    languages_per_pass: int | str | None = option(
        1, 'Languages that share a forward pass, or "auto".'
    )
    sampling_temperature: float | None = option(None, "Deprecated: use sampling_alpha.")

    def __new__(cls, *_: object, **given: object) -> Self:
        """Refuse arguments of another Trainer, before a dataclass does it without a reason."""
        check_known(given, {argument.name for argument in fields(cls)})
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Fill in the preset and check everything before any work starts."""
        self._take_over_old_name()

        self.meta_languages = parsed_languages(self.meta_languages)

        # Here, and not by defaults of the fields: a preset must see which arguments were given.
        self.languages_per_pass = parsed_size(self.languages_per_pass)
        self.mixed_rows = parsed_rows(self.mixed_rows)
        update, rows = self.shared_update, self.mixed_rows
        for name, value in asdict(self.meta_options()).items():
            setattr(self, name, value)
        self.shared_update = update or self.shared_update  # a method is no option of a step
        self.mixed_rows = rows or self.mixed_rows  # nor is a share that is yet to be chosen

        given = vars(self)
        defaults = {**_DEFAULTS, **_PRESETS.get(self.preset or "", {})}
        for name, value in defaults.items():
            if given[name] is None:
                setattr(self, name, value)

        # Before transformers' own, which asks for devices and may start a process group.
        self._check()
        check_combinations(vars(self))
        check_surgery_arguments(vars(self))
        check_sample_arguments(vars(self), self.meta_options())
        check_inherited(vars(self))
        check_launch(self.deepspeed)
        start_process_group(self)
        super().__post_init__()
        check_accelerator_config(self.accelerator_config)
        self._check_checkpointing()

    def method(self) -> dict[str, object]:
        """The arguments that this class adds to those of transformers, for the record."""
        omitted = {argument.name for argument in fields(TrainingArguments)}
        omitted.add("sampling_temperature")  # `sampling_alpha` under its old name

        given = vars(self)
        names = [argument.name for argument in fields(self) if argument.name not in omitted]
        return {name: given[name] for name in names}

    def adapter_rate(self, learning_rate: float, *, beside_shared: bool) -> float:
        """The learning rate of φ: `adapter_learning_rate`, or what stands for `None`.

        Args:
            learning_rate: That of the optimizer as it is made: `optimizer_cls_and_kwargs` may say
                another one than the arguments.
            beside_shared: Whether θ is trained as well.

        Returns:
            The rate, before the schedule.
        """
        if self.adapter_learning_rate is not None:
            return self.adapter_learning_rate

        # Without θ there is no second rate: `learning_rate` is then that of φ.
        factor = 1.0
        if beside_shared:
            factor = _ADAPTER_RATES.get(self.preset or "", _ADAPTER_RATE)
        return learning_rate * factor

    def meta_options(self) -> MetaOptions:
        """The options of the outer step."""
        given = {name: vars(self)[name] for name in _OPTIONS}
        return meta_options(self.preset, **row_options(step_options(given)))

    def sampling_plan(self) -> SamplingPlan | None:
        """The plan of the run, to be given to `LanguageBatchSampler`; `None` by temperature."""
        return sampling_plan(
            self.sampling,
            alpha=self.sampling_alpha,
            max_epochs=self.sampling_max_epochs,
            end_alpha=self.sampling_end_alpha,
            max_steps=self.max_steps,
            epochs=self.num_train_epochs,
        )

    def _take_over_old_name(self) -> None:
        """Move `sampling_temperature` to `sampling_alpha`; a copy then has the new name only."""
        old = self.sampling_temperature
        if old is None:
            return

        warnings.warn(
            "`sampling_temperature` is deprecated, as it is the exponent α = 1/T and not a"
            f" temperature. Use `sampling_alpha={old!r}`.",
            FutureWarning,
            stacklevel=4,
        )
        # An alpha equal to the default cannot be told from one that was not given.
        if self.sampling_alpha not in (DEFAULT_ALPHA, old):
            raise ConfigurationError(
                "`sampling_temperature` is the old name of `sampling_alpha`, so both must be equal."
                f" Found {old!r} and {self.sampling_alpha!r}. Remove `sampling_temperature`."
            )

        self.sampling_alpha = old
        self.sampling_temperature = None

    def _check(self) -> None:
        given = vars(self)

        for name, choices in _CHOICES.items():
            check_choice(name, given[name], choices)
        check_size(self.languages_per_pass)
        for name in _POSITIVE:
            check_positive(name, given[name])
        for name in _POSITIVE_OR_NONE:
            if given[name] is not None:
                check_positive(name, given[name])
        for name in _COUNTS:
            check_count(name, given[name])
        for name in _RATES:
            check_rate(name, given[name], optional=False)
        for name in _RATES_OR_NONE:
            check_rate(name, given[name])
        for name in _BETAS:
            check_beta(name, given[name])
        check_epsilon("adam_epsilon", self.adam_epsilon)
        check_share("reptile_rate", self.reptile_rate)
        check_cosine("min_fidelity", self.min_fidelity)
        check_exponent("sampling_alpha", self.sampling_alpha)
        check_norm("max_grad_norm", self.max_grad_norm)

        # transformers does not check it, and fails later, in a comparison.
        if not isinstance(self.max_steps, int):
            raise ConfigurationError(
                f"`max_steps` must be a whole number, -1 for epochs. Found {self.max_steps!r}."
            )

        check_leaves_some_out(self.sampling, self.languages_per_step)
        self.sampling_plan()  # which checks what is said of it

        if self.fp16 and self.update_order == "alternating":
            raise ConfigurationError(
                'fp16 scales one loss per optimizer step, and `update_order="alternating"` takes'
                ' several. Use `bf16=True` or `update_order="simultaneous"`.'
            )

    def _check_checkpointing(self) -> None:
        """Reentrant checkpoints do not support `torch.autograd.grad`: make them non-reentrant."""
        arguments = self.gradient_checkpointing_kwargs or {}
        if arguments.get("use_reentrant"):
            raise ConfigurationError(
                "Gradient checkpointing must not be reentrant, since gradients are taken of chosen"
                f" parameters. Found {arguments}. Pass"
                " `gradient_checkpointing_kwargs={'use_reentrant': False}` or leave it out."
            )

        # transformers 4 makes reentrant ones by default; 5, which has the new name, does not.
        if self.gradient_checkpointing and not hasattr(self, "activation_checkpointing"):
            self.gradient_checkpointing_kwargs: dict[str, Any] | None = {
                "use_reentrant": False,
                **arguments,
            }
