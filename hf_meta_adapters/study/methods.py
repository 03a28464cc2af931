"""The methods that the paper compares, as settings of one Trainer, and pretraining of a small masked model by each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

import transformers
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends.bottleneck import BottleneckConfig
from hf_meta_adapters.backends.module_copy import ModuleCopyConfig
from hf_meta_adapters.data import LanguageBatchSampler
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling.factory import get_language_model
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.pretraining import new_model
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments
from hf_meta_adapters.training.trainer import MetaAdapterTrainer

__all__ = ["METHODS", "Method", "Pretrained", "examples_seen", "pretrain", "small_sizes"]


@dataclass(frozen=True)
class Method:
    """What each language has of its own, and how that is trained.

    Attributes:
        own: Nothing (`None`), `"bottleneck"`, or what each language has a copy of (see
            `ModuleCopyConfig`).
        training: Arguments of `MetaAdapterTrainingArguments`.
        share_adapter: Whether all languages have one adapter.
        steps: Optimizer steps as a multiple of those of the others.
        like: The method whose tuned settings it takes, if it was not tuned itself.
        cost: CPU time relative to `joint`, of a model of 64 units; only the time left is reckoned
            from it.
    """

    own: str | None = None
    training: Mapping[str, Any] = field(default_factory=lambda: {"adapter_update": "train"})
    share_adapter: bool = False
    steps: float = 1.0
    like: str = ""
    cost: float = 1.0


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
    "meta_direct": Method("bottleneck", _DIRECT, like="meta_fast", cost=3.8),
    "meta_fast": Method("bottleneck", {"preset": "fast"}, cost=4.2),
    "meta_paper": Method("bottleneck", {"preset": "paper"}, cost=12.0),
}
"""The arms of the comparison. `adapters_longer` has about the compute of `meta_fast`, `meta_direct` only the direct
part of the meta-gradient: what the whole must beat."""


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model, and how it came about.

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
        """Of all parameters."""
        return sum(
            parameter.numel() * parameter.element_size() for parameter in self.model.parameters()
        )


def small_sizes(width: int = 64, layers: int = 2) -> dict[str, Any]:
    """Return sizes of a ModernBERT that learns from little text: its weights begin with a variance of 0.64 / width.

    The usual standard deviation of 0.02 is for large models. With it, models of this size learn in
    a few hundred steps how frequent words are, and nothing of their neighbours; interference then
    says nothing either.

    Args:
        width: Hidden size, a multiple of 8.
        layers: Number of layers.

    Returns:
        Arguments of `ModernBertConfig`.
    """
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 2 * width}
    attention = {
        "num_attention_heads": 4,
        "global_attn_every_n_layers": 1,
        "reference_compile": False,
    }
    return {**sizes, **attention, "initializer_range": round(0.8 / math.sqrt(width), 4)}


def pretrain(
    method: str,
    texts: Mapping[Language, Sequence[str]],
    tokenizer: Any,
    *,
    model_type: str,
    sizes: Mapping[str, Any],
    steps: int,
    seed: int,
    bottleneck_size: int = 16,
    mlm_probability: float = 0.15,
    callbacks: Sequence[transformers.TrainerCallback] = (),
    **training: Any,
) -> Pretrained:
    """Minimise the masked-language-model loss of a model of some sizes from random weights by one of `METHODS`.

    Args:
        method: Its name.
        texts: Language → lines. Meta-gradients take a tenth of them for held-out text; the other
            methods train on all.
        tokenizer: The tokenizer.
        model_type: The architecture, a name of `transformers.AutoConfig` such as "xlm-roberta".
        sizes: Arguments of its config, such as `hidden_size`.
        steps: Optimizer steps, before the method's own multiple.
        seed: Of weights, batches and masks.
        bottleneck_size: Width of adapters.
        mlm_probability: Share of the tokens that are to be predicted.
        callbacks: Of the Trainer.
        **training: Arguments of `MetaAdapterTrainingArguments`, over those of the method.

    Returns:
        The model and its record.

    Raises:
        ConfigurationError: If the method is unknown.
    """
    if method not in METHODS:
        raise ConfigurationError(f"`method` must be one of {list(METHODS)}. Found {method!r}.")
    how, total = METHODS[method], round(METHODS[method].steps * steps)
    transformers.set_seed(seed)  # every method starts from the same weights
    own: Any = how.own
    if own is not None:
        own = (
            BottleneckConfig(bottleneck_size=bottleneck_size)
            if own == "bottleneck"
            else ModuleCopyConfig(own)
        )
    base = new_model(transformers.AutoModelForMaskedLM, model_type, sizes, tokenizer)
    model = get_language_model(base, own, list(texts), share_adapter=how.share_adapter)
    with TemporaryDirectory() as folder:
        given: dict[str, Any] = {"warmup_steps": total // 10, **how.training, **training}
        rates: dict[str, Any] = {
            "adapter_learning_rate": training.get("learning_rate")
        }  # one, if not tuned
        quiet: dict[str, Any] = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
        args = MetaAdapterTrainingArguments(
            output_dir=folder,
            max_steps=total,
            seed=seed,
            logging_steps=max(1, total // 5),
            **quiet,
            **(rates | given),
        )
        trainer = MetaAdapterTrainer(
            model,
            args,
            train_dataset={
                key: Dataset.from_dict(dict(tokenizer(list(own), truncation=True)))
                for key, own in texts.items()
            },
            data_collator=transformers.DataCollatorForLanguageModeling(
                tokenizer, mlm_probability=mlm_probability
            ),
            callbacks=[*callbacks],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    examples = examples_seen(
        {key: len(rows) for key, rows in trainer.train_dataset.items()}, total, args
    )
    rows, meta_rows = (
        args.per_device_train_batch_size,
        args.meta_batch_size or args.per_device_train_batch_size,
    )
    taken = trainer.meta_dataset is not None
    return Pretrained(
        model=model.eval(),
        examples=examples,
        meta_examples=(
            {key: count * meta_rows // rows for key, count in examples.items()} if taken else {}
        ),
        meter=_meter(trainer.state.log_history),
    )


def examples_seen(
    sizes: Mapping[Language, int], steps: int, args: MetaAdapterTrainingArguments
) -> dict[Language, int]:
    """Compute how many training rows of each language a run shows: c_l · B of `LanguageBatchSampler`.

    Args:
        sizes: Language → training rows that there are.
        steps: Optimizer steps.
        args: The arguments of the run.

    Returns:
        Language → rows, passes over the same row counted each.
    """
    sampler = LanguageBatchSampler(
        sizes,
        batch_size=args.per_device_train_batch_size,
        languages_per_step=args.languages_per_step,
        alpha=args.sampling_alpha,
        seed=args.seed,
    )
    return sampler.examples_seen(*divmod(steps, len(sampler)))["train"]


def _meter(logs: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    names = (
        "meta_direct_norm",
        "meta_indirect_norm",
        "meta_indirect_ratio",
        "meta_cosine",
        "meta_fidelity",
    )
    return {
        name: values for name in names if (values := [log[name] for log in logs if name in log])
    }
