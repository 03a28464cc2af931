"""The methods that the paper compares, as settings of one Trainer, and pretraining by each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import transformers
from datasets import Dataset
from torch import nn

from hf_meta_adapters._typing import Keywords, Language
from hf_meta_adapters.backends.bottleneck import BottleneckConfig
from hf_meta_adapters.backends.module_copy import ModuleCopyConfig
from hf_meta_adapters.data import LanguageBatchSampler
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling.factory import get_language_model
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.pretraining import new_model
from hf_meta_adapters.study._masked_training import MakeArguments, MaskedTraining
from hf_meta_adapters.study._second_half import merged_experts, with_planned_copies
from hf_meta_adapters.study.training_meter import training_meter
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainerCallback

__all__ = ["METHODS", "Method", "Pretrained", "examples_seen", "method_arguments", "pretrain"]


@dataclass(frozen=True)
class Method:
    """The part of a model that each language has for itself, and how it is trained.

    Attributes:
        own: Nothing (`None`), `"bottleneck"`, or the modules that each language has a copy of (see
            `ModuleCopyConfig`).
        training: Arguments of `MetaAdapterTrainingArguments`.
        share_adapter: Whether all languages have one adapter.
        steps: Optimizer steps as a multiple of those of the other methods.
        second_half: What comes after a first half of joint training: `"linear"` or `"ties"`,
            experts of single languages, merged by that method; `"plan"`, copies of the modules
            `own` in the layers that the capacity plan of the joint model names; "" for nothing of
            the sort.
        like: The method whose tuned settings it takes, if it was not tuned itself.
        cost: CPU time relative to `joint`, of a model of 64 units; only the estimate of the time
            left uses it.
    """

    own: str | None = None
    training: Keywords = field(default_factory=lambda: {"adapter_update": "train"})
    share_adapter: bool = False
    steps: float = 1.0
    second_half: str = ""
    like: str = ""
    cost: float = 1.0

    def adapter_config(
        self, bottleneck_size: int | None
    ) -> BottleneckConfig | ModuleCopyConfig | None:
        """The configuration that `get_language_model` takes.

        Args:
            bottleneck_size: The width, where it is a bottleneck adapter; `None` for the default of
                `BottleneckConfig`.
        """
        if self.own is None:
            return None

        if self.own == "bottleneck":
            return BottleneckConfig(bottleneck_size=bottleneck_size)

        return ModuleCopyConfig(self.own)


_REPTILE = {
    "adapter_update": "train",
    "languages_per_step": 1,
    "reptile_steps": 20,
    "reptile_rate": 0.5,
}


def _joint(**training: object) -> Method:
    """Joint training without parameters of a language, changed in one thing."""
    return Method(training={"adapter_update": "train", **training}, like="joint", cost=1.2)


def _fast(**training: object) -> Method:
    """The fast preset, changed in one thing."""
    return Method("bottleneck", {"preset": "fast", **training}, like="meta_fast", cost=4.2)


def _next(**training: object) -> Method:
    """The optimizer's own step as look-ahead, its indirect part as long as the direct one."""
    options = {"lookahead": "next", "adapter_update": "meta", "indirect_ratio": 1.0, **training}
    return Method("bottleneck", options, like="meta_fast", cost=2.6)


_DIRECT = {"meta_gradient": "first_order", "lookahead": "shared"}

METHODS: dict[str, Method] = {
    "mono": Method(),
    "joint": Method(),
    "shared_adapter": Method("bottleneck", share_adapter=True, cost=1.6),
    "layer_norm": Method("layer_norm", cost=1.1),
    "feed_forward": Method("feed_forward", cost=1.1),
    "attention": Method("attention", cost=1.1),
    "adapters": Method("bottleneck", cost=1.6),
    "adapters_longer": Method("bottleneck", steps=2.5, like="adapters", cost=4.0),
    # gradient surgery
    "pcgrad": _joint(shared_update="pcgrad"),
    "gradvac": _joint(shared_update="gradvac"),
    "upgrad": _joint(shared_update="upgrad"),
    "cagrad": _joint(shared_update="cagrad"),
    "aligned_mtl": _joint(shared_update="aligned_mtl"),
    "nash_mtl": _joint(shared_update="nash_mtl"),
    # sampling, and weights of languages
    "unimax": _joint(sampling="unimax", sampling_max_epochs=4.0),
    "cooldown": _joint(sampling="cooldown"),
    "famo": _joint(language_weights="famo"),
    "sequential_reptile": Method(training=_REPTILE, like="joint"),
    "merged_linear": Method(second_half="linear", like="joint"),
    "merged_ties": Method(second_half="ties", like="joint"),
    "planned_copies": Method("feed_forward", second_half="plan", like="joint", cost=1.1),
    "meta_direct": Method("bottleneck", _DIRECT, like="meta_fast", cost=3.8),
    "meta_projected": _fast(shared_update="project"),
    "meta_alignment": _fast(language_weights="alignment"),
    "meta_fast": Method("bottleneck", {"preset": "fast"}, cost=4.2),
    "meta_fast_sampled": _fast(mixed_rows=0.5),
    "meta_next": _next(),
    "meta_next_sampled": _next(mixed_rows=0.5),
    "meta_next_drawn": _next(mixed_languages=0.5),
    "meta_paper": Method("bottleneck", {"preset": "paper"}, cost=12.0),
}
"""The arms of the comparison.

`adapters_longer` has about the compute of `meta_fast`. Gradient surgery, ways to sample and weights
of languages are joint training, or `meta_fast`, with the one thing changed that they are named for.
`sequential_reptile` takes as many more steps as it has fewer languages in each. In `merged_…` and
`planned_copies`, the first half of the steps is joint training. `meta_direct` has only the direct
part of the meta-gradient, which the whole must beat. The mixed products of `…_sampled` are those of
half the rows, those of `…_drawn` of half the languages.
"""


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model and the record of its training.

    Attributes:
        model: The model, in evaluation mode.
        examples: Language → training rows seen by θ.
        meta_examples: Language → held-out rows seen by the meta-gradient.
        meter: Name → values over training: norms, ratio and cosine of the parts of the
            meta-gradient.
    """

    model: LanguageAdapterModel
    examples: dict[Language, int]
    meta_examples: dict[Language, int]
    meter: dict[str, list[float]]

    @property
    def size_in_bytes(self) -> int:
        """The size of all parameters."""
        return sum(
            parameter.numel() * parameter.element_size() for parameter in self.model.parameters()
        )


def pretrain(
    method: str,
    texts: Mapping[Language, Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    model_type: str,
    sizes: Keywords,
    steps: int,
    seed: int,
    bottleneck_size: int | None = None,
    mlm_probability: float = 0.15,
    callbacks: Sequence[TrainerCallback] = (),
    **training: object,
) -> Pretrained:
    """Minimize the masked-language-model loss from random weights by one of `METHODS`.

    Args:
        method: Its name.
        texts: Language → lines. Meta-gradients take a tenth of them as held-out text; the other
            methods train on all.
        tokenizer: The tokenizer.
        model_type: The architecture, a name of `transformers.AutoConfig` such as "xlm-roberta".
        sizes: Arguments of its config, such as `hidden_size`.
        steps: Optimizer steps, before they are multiplied by `Method.steps`.
        seed: The seed of weights, batches and masks.
        bottleneck_size: The width of adapters; `None` for the default of `BottleneckConfig`.
        mlm_probability: The share of the tokens that are to be predicted.
        callbacks: Callbacks of the Trainer.
        **training: Arguments of `MetaAdapterTrainingArguments`, over those of the method.

    Returns:
        The model and the record of its training.

    Raises:
        ConfigurationError: If the method is unknown.
    """
    if method not in METHODS:
        raise ConfigurationError(f"`method` must be one of {list(METHODS)}. Found {method!r}.")

    chosen = METHODS[method]
    steps, training = _with_one_language_a_step(chosen, steps, training, len(texts))

    # The seed comes before the weights, so that every method starts from the same ones.
    transformers.set_seed(seed)
    base = new_model(transformers.AutoModelForMaskedLM, model_type, sizes, tokenizer)
    masked = MaskedTraining(
        {
            language: Dataset.from_dict(dict(tokenizer(list(lines), truncation=True)))
            for language, lines in texts.items()
        },
        transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=mlm_probability),
        callbacks,
    )
    if chosen.second_half:
        return _in_halves(chosen, base, masked, steps, seed, training)

    model = get_language_model(
        base,
        chosen.adapter_config(bottleneck_size),
        list(texts),
        share_adapter=chosen.share_adapter,
    )
    trainer = masked.run(model, method_arguments(chosen, steps, seed, training))

    sizes_of_text = {language: len(rows) for language, rows in trainer.train_dataset.items()}
    examples = examples_seen(sizes_of_text, trainer.args.max_steps, trainer.args)
    meta_examples = {}
    if trainer.meta_dataset is not None:
        meta_examples = _meta_examples(examples, trainer.args)

    return Pretrained(
        model.eval(), examples, meta_examples, training_meter(trainer.state.log_history)
    )


def _in_halves(
    method: Method,
    base: nn.Module,
    masked: MaskedTraining,
    steps: int,
    seed: int,
    training: Mapping[str, Any],
) -> Pretrained:
    """Train jointly for half of the steps, and then as `Method.second_half` says.

    Each run has a schedule of its own. All rows that are seen are those of `steps` joint steps.
    """
    joint = get_language_model(base, None, list(masked.rows))
    trainer = masked.run(joint, method_arguments(method, steps // 2, seed, training))

    sizes = {language: len(rows) for language, rows in masked.rows.items()}
    rows = trainer.args.per_device_train_batch_size
    half, whole = (
        examples_seen(sizes, count, trainer.args) for count in (trainer.args.max_steps, steps)
    )

    if method.second_half == "plan":
        model = with_planned_copies(joint, masked, method.own or "", rows)
        masked.run(model.train(), method_arguments(method, steps - steps // 2, seed, training))
        return Pretrained(model.eval(), whole, {}, {})

    left = {language: max((whole[language] - half[language]) // rows, 1) for language in half}
    alone = {**training, "languages_per_step": None}
    model = merged_experts(
        joint,
        masked,
        left,
        lambda count: method_arguments(method, count, seed, alone),
        method.second_half,
    )
    seen = {language: half[language] + left[language] * rows for language in half}
    return Pretrained(model.eval(), seen, {}, {})


def _with_one_language_a_step(
    method: Method, steps: int, training: dict[str, object], languages: int
) -> tuple[int, dict[str, object]]:
    """The steps and arguments of a method that wants steps in one language, for as many rows."""
    if "reptile_steps" not in method.training:
        return steps, training

    given = training.get("languages_per_step")
    per_step = given if isinstance(given, int) else languages
    return steps * per_step, {**training, "languages_per_step": 1}


def examples_seen(
    sizes: Mapping[Language, int], steps: int, args: MetaAdapterTrainingArguments
) -> dict[Language, int]:
    """Compute how many training rows of each language a run shows: c_l · B.

    c_l is the number of batches that `LanguageBatchSampler` draws of language l.

    Args:
        sizes: Language → number of training rows.
        steps: Optimizer steps.
        args: The arguments of the run.

    Returns:
        Language → rows; a row counts once for each pass over it.
    """
    # The sampler is deterministic: it can tell what a run drew without the run.
    sampler = LanguageBatchSampler(
        sizes,
        batch_size=args.per_device_train_batch_size,
        languages_per_step=args.languages_per_step,
        alpha=args.sampling_alpha,
        sampling_weights=args.sampling_plan(),
        seed=args.seed,
    )

    epochs, steps_into_epoch = divmod(steps, len(sampler))
    return sampler.examples_seen(epochs, steps_into_epoch)["train"]


def method_arguments(
    method: Method, steps: int, seed: int, training: Mapping[str, Any]
) -> MakeArguments:
    """Return what makes the arguments of a run from its folder.

    Args:
        method: The method.
        steps: Optimizer steps, before they are multiplied by `Method.steps`.
        seed: The seed.
        training: Arguments of `MetaAdapterTrainingArguments`, over those of the method.
    """
    return partial(_training_arguments, method, steps, seed, training)


def _training_arguments(
    method: Method, steps: int, seed: int, training: Mapping[str, Any], folder: str
) -> MetaAdapterTrainingArguments:
    total = round(method.steps * steps)

    # The last of these that names an argument wins. Where the rate of φ was not tuned, it is that
    # of θ, not the Trainer's default of twice that rate.
    options: dict[str, Any] = {
        "adapter_learning_rate": training.get("learning_rate"),
        "warmup_steps": total // 10,
        **method.training,
        **training,
    }
    if options.get("sampling") == "unimax":
        del options["sampling_alpha"]  # it samples languages equally
    return MetaAdapterTrainingArguments(
        output_dir=folder,
        max_steps=total,
        seed=seed,
        logging_steps=max(1, total // 5),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **options,
    )


def _meta_examples(
    examples: Mapping[Language, int], args: MetaAdapterTrainingArguments
) -> dict[Language, int]:
    """Return the rows seen by the meta-gradient: one batch for every batch of training rows."""
    batch_size = args.per_device_train_batch_size
    meta_batch_size = args.meta_batch_size or batch_size

    return {key: count * meta_batch_size // batch_size for key, count in examples.items()}
