"""What is not supported, in one table: the documentation lists it, and tests see it refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import (
    AdaLoraConfig,
    LNTuningConfig,
    LoraConfig,
    OSFConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
)
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import (
    MBartForConditionalGeneration,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

from hf_meta_adapters import (
    BottleneckConfig,
    MetaAdapterTrainingArguments,
    ModuleCopyConfig,
    extend_vocabulary,
    get_language_model,
)
from hf_meta_adapters.errors import ConfigurationError, DataError, UnsupportedModelError
from hf_meta_adapters.training._batch_check import BatchCheck
from hf_meta_adapters.training._precision_check import check_precision
from hf_meta_adapters.training._setup_checks import check_setup
from tests.adapted import adapted
from tests.tiny import tiny

LANGUAGES = ["en", "sw"]


def in_half_precision() -> None:
    model = get_language_model(
        tiny("llama").make(torch.bfloat16), BottleneckConfig(bottleneck_size=3), LANGUAGES
    )
    with TemporaryDirectory() as folder:
        check_precision(model, MetaAdapterTrainingArguments(folder, report_to="none"))


def surgery_with(**given: Any) -> None:
    with TemporaryDirectory() as folder:
        MetaAdapterTrainingArguments(folder, report_to="none", shared_update="pcgrad", **given)


@dataclass(frozen=True)
class Unsupported:
    """One row: what is asked for, why it is refused, a call that asks for it, and its error."""

    what: str
    why: str
    call: Callable[[], Any]
    error: type[Exception]

    def __str__(self) -> str:
        return self.what


def experts() -> Any:
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    torch.manual_seed(0)
    return MixtralForCausalLM(
        MixtralConfig(vocab_size=64, num_key_value_heads=1, num_local_experts=2, **sizes)
    )


def _training_rows(name: str, head: str) -> Any:
    cell = tiny(name, head)
    config = PromptTuningConfig(num_virtual_tokens=2, task_type="FEATURE_EXTRACTION")
    model = get_language_model(cell.make(), config, LANGUAGES)
    return BatchCheck(model)("train", "sw", cell.batch())


def _smoothed(model: Any) -> Any:
    with TemporaryDirectory() as folder:
        args = MetaAdapterTrainingArguments(folder, label_smoothing_factor=0.1, use_cpu=True)
        return check_setup(model, args, None)


def _tied_for_good() -> Any:
    model = of("llama", LoraConfig(target_modules=["q_proj"]))
    right = model.backend.merged("sw")
    with torch.no_grad():
        right.lm_head.weight.add_(1)  # stands for such a class, of which transformers 5 has none
    model.backend.merged = lambda adapter: right
    return model.merge_language("sw")


def untied_sides(config: Any) -> Any:
    base = tiny("mbart").config()
    base.tie_word_embeddings = False
    return get_language_model(MBartForConditionalGeneration(base), config, LANGUAGES)


def extended(name: str, config: Any, **options: Any) -> Any:
    letters = {letter: number for number, letter in enumerate("abhirn")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE(letters, [])))
    return extend_vocabulary(of(name, config, **options), tokenizer, ["habari nahari"], 1)


def prompts() -> PromptTuningConfig:
    return PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")


def of(name: str, config: Any, **options: Any) -> Any:
    return get_language_model(tiny(name).make(), config, LANGUAGES, **options)


def rows(name: str, method: str, *, labels: bool = False, training: bool = False) -> Any:
    model, batch = adapted(name, method).train(training), tiny(name).batch()
    if not labels:
        batch.pop("labels")
    return model(**batch, language=LANGUAGES)


QUERY: dict[str, Any] = {"target_modules": ["query"]}
UNSUPPORTED = (
    Unsupported(
        "`BottleneckConfig()` on a mixture of experts",
        "no feed-forward that every token runs through; name linear layers in `target_modules`",
        lambda: get_language_model(experts(), BottleneckConfig(), LANGUAGES),
        UnsupportedModelError,
    ),
    Unsupported(
        '`ModuleCopyConfig("feed_forward")` on a mixture of experts',
        "the same; name modules in `ModuleCopyConfig([...])`",
        lambda: get_language_model(experts(), ModuleCopyConfig("feed_forward"), LANGUAGES),
        UnsupportedModelError,
    ),
    Unsupported(
        "LN tuning of a module without parameters, such as the first `attn_norm` of ModernBERT",
        'nothing to tune; `ModuleCopyConfig("layer_norm")` leaves it out',
        lambda: of("modernbert", LNTuningConfig(target_modules=["attn_norm"])),
        UnsupportedModelError,
    ),
    Unsupported(
        "`AdaLoraConfig`",
        "PEFT trains only one such adapter per model",
        lambda: of("bert", AdaLoraConfig(init_r=2, target_r=1, total_step=9, **QUERY)),
        ConfigurationError,
    ),
    Unsupported(
        '`LoraConfig(init_lora_weights="pissa")`, OLoRA, LoftQ, CorDA, LoRA-GA',
        "they first change the base, which the languages share",
        lambda: of("bert", LoraConfig(init_lora_weights="pissa", **QUERY)),
        ConfigurationError,
    ),
    Unsupported(
        "`layer_replication`, KaSA, MonteCLoRA, Arrow, QA-LoRA, Megatron and EVA of `LoraConfig`",
        "they change the base, or do without PEFT's wrapper only a part of what they say",
        lambda: of(
            "llama", LoraConfig(layer_replication=[[0, 2], [1, 2]], target_modules=["q_proj"])
        ),
        ConfigurationError,
    ),
    Unsupported(
        '`bias="all"` or `bias="lora_only"` of `LoraConfig`',
        "the biases belong to the base, which the languages share",
        lambda: of("bert", LoraConfig(bias="all", **QUERY)),
        ConfigurationError,
    ),
    Unsupported(
        "`ensure_weight_tying=True` over tied embeddings, except `modules_to_save` of `shared=`",
        "PEFT makes two parameters of one memory, and both are updated",
        lambda: of("gemma3", LoraConfig(target_modules=["lm_head"], ensure_weight_tying=True)),
        ConfigurationError,
    ),
    Unsupported(
        "trainable tokens where the tied output layer has a bias, as in BERT",
        "PEFT leaves the bias out; name the embeddings in `modules_to_save`",
        lambda: of("bert", LoraConfig(trainable_token_indices=[3], **QUERY)),
        ConfigurationError,
    ),
    Unsupported(
        "trainable tokens where encoder and decoder have embeddings of their own",
        "PEFT trains rows of a third embedding, which no forward pass reads",
        lambda: untied_sides(LoraConfig(target_modules=["q_proj"], trainable_token_indices=[3])),
        ConfigurationError,
    ),
    Unsupported(
        "`extend_vocabulary` of a model whose θ is an adapter already",
        "its new rows must be part of θ from the start; extend the base first",
        lambda: extended(
            "llama",
            LoraConfig(target_modules=["q_proj"]),
            shared=LoraConfig(target_modules=["q_proj"]),
        ),
        ConfigurationError,
    ),
    Unsupported(
        "AdaMSS, FRoD, OSF, PSOFT and Lily for languages (as `shared=` they work)",
        "they derive a part of the adapter from the base, or share parts between layers",
        lambda: of("llama", OSFConfig(target_modules=["q_proj"])),
        ConfigurationError,
    ),
    Unsupported(
        "P-tuning, prefix tuning with a projection, CPT, multitask prompts, Poly, X-LoRA, Shadow",
        "what PEFT saves is not what was trained, or the forward pass needs more than the inputs",
        lambda: of("llama", PromptEncoderConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")),
        ConfigurationError,
    ),
    Unsupported(
        "a layer of φ within a module that θ has in `modules_to_save`, and the other way round",
        "one would be a part of the other; use `exclude_modules`",
        lambda: of(
            "llama",
            LoraConfig(target_modules=["down_proj"]),
            shared=LoraConfig(target_modules=["q_proj"], modules_to_save=["mlp"]),
        ),
        ConfigurationError,
    ),
    Unsupported(
        "`merge_language` where the merged model computes something else, which it checks",
        "an embedding that the model class ties whatever its configuration says",
        lambda: _tied_for_good(),
        ConfigurationError,
    ),
    Unsupported(
        "`merge_language` of a bottleneck adapter",
        "its activation cannot become part of a weight",
        lambda: adapted("bert", "bottleneck").merge_language("sw"),
        ConfigurationError,
    ),
    Unsupported(
        "`merge_language` of a prompt or a prefix",
        "it lies before the input, not in the weights",
        lambda: of("llama", prompts()).merge_language("sw"),
        ConfigurationError,
    ),
    Unsupported(
        "a prompt of masked language modeling, of tags or of question answering in training",
        "it moves the text, but PEFT does not move the labels; a prefix, or a prompt of a causal"
        " model, is fine",
        lambda: _training_rows("bert", "masked_lm"),
        DataError,
    ),
    Unsupported(
        "`label_smoothing_factor` with a prompt",
        "the prompt has logits, but no labels",
        lambda: _smoothed(of("llama", prompts())),
        ConfigurationError,
    ),
    Unsupported(
        "`shared=` a prompt or a prefix",
        "it lies outside the base, and the adapters of the languages lie inside",
        lambda: of("llama", BottleneckConfig(), shared=prompts()),
        ConfigurationError,
    ),
    Unsupported(
        "`shared=LoraConfig(...)` within modules that each language copies",
        "θ would be copied along with them; give θ other `target_modules`",
        lambda: of("bert", ModuleCopyConfig("attention"), shared=LoraConfig(**QUERY)),
        UnsupportedModelError,
    ),
    Unsupported(
        "`shared=LoraConfig(...)` with `share_adapter=True`",
        "two adapters for all languages amount to one; use `config=None`",
        lambda: of("bert", BottleneckConfig(), shared=LoraConfig(**QUERY), share_adapter=True),
        ConfigurationError,
    ),
    Unsupported(
        "rows of several languages in one training batch, except with LoRA and bottleneck adapters",
        "each language takes its own pass; train with batches of one language",
        lambda: rows("bert", "ia3", training=True),
        ConfigurationError,
    ),
    Unsupported(
        "rows of several languages with `labels`, except with LoRA and bottleneck adapters",
        "the losses of the passes do not add up to the loss of the batch",
        lambda: rows("bert", "ia3", labels=True),
        ConfigurationError,
    ),
    Unsupported(
        "a finite difference, the default estimator, over shared weights in bfloat16 or float16",
        "θ + εv is rounded to θ; load the model in float32, or make θ a LoRA",
        in_half_precision,
        ConfigurationError,
    ),
    Unsupported(
        'gradient surgery (`shared_update="pcgrad"`, …) with `lookahead="next"`',
        "the next step differentiates the mean of the gradients that surgery weighs",
        lambda: surgery_with(lookahead="next"),
        ConfigurationError,
    ),
    Unsupported(
        "gradient surgery with `languages_per_pass` over 1",
        "the languages of a pass have one gradient",
        lambda: surgery_with(languages_per_pass=2),
        ConfigurationError,
    ),
)
