"""The bank of tiny models, made in memory from configs: every family, with every head that it has.

`MODELS` is the matrix for `@pytest.mark.parametrize("tiny", MODELS, ids=str)`; `tiny("bert")` is
one of them. A family is added by one line of `FAMILIES`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch.overrides import TorchFunctionMode

VOCABULARY, HIDDEN, LAYERS, CLASSES = 64, 16, 2, 3
PAD, BOS, EOS, FIRST_WORD = 0, 1, 2, 3
_TOKENS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}

HEADS = {
    "masked_lm": "AutoModelForMaskedLM",
    "causal_lm": "AutoModelForCausalLM",
    "seq2seq_lm": "AutoModelForSeq2SeqLM",
    "speech_seq2seq": "AutoModelForSpeechSeq2Seq",
    "token_classification": "AutoModelForTokenClassification",
    "sequence_classification": "AutoModelForSequenceClassification",
    "question_answering": "AutoModelForQuestionAnswering",
}
_TAGS, _CLS, _QA = "token_classification", "sequence_classification", "question_answering"
_ENCODER, _DECODER = ("masked_lm", _TAGS, _CLS, _QA), ("causal_lm", _TAGS, _CLS, _QA)


@dataclass(frozen=True)
class Family:
    """An architecture: its config class, its sizes, the heads it has (the first is the one it is
    pretrained with).
    """

    name: str
    kind: str
    config: str
    heads: tuple[str, ...]
    sizes: dict[str, Any]


def _wide(**more: Any) -> dict[str, Any]:
    """The names of sizes that BERT and Llama use."""
    names = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    return {"max_position_embeddings": 32, **names, **more}


def _grouped(**more: Any) -> dict[str, Any]:
    """The names of a decoder whose query heads share keys and values."""
    return _wide(num_key_value_heads=1, head_dim=8, **more)


def _two_sided(**more: Any) -> dict[str, Any]:
    """The names of sizes that BART uses."""
    sizes = {"layers": LAYERS, "attention_heads": 2, "ffn_dim": 32}
    both = {
        f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in sizes.items()
    }
    common = {"d_model": HIDDEN, "max_position_embeddings": 32, "decoder_start_token_id": EOS}
    return {**common, "forced_eos_token_id": None, **both, **more}


_SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
_DEBERTA_V3 = {
    "relative_attention": True,
    "position_buckets": 4,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
}
_DISTIL = {
    "dim": HIDDEN,
    "n_layers": LAYERS,
    "n_heads": 2,
    "hidden_dim": 32,
    "max_position_embeddings": 32,
}
_GPT2 = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 2, "n_inner": 32, "n_positions": 32}
_BLOOM = {
    "hidden_size": HIDDEN,
    "n_layer": LAYERS,
    "n_head": 2,
}  # its QA head warns on transformers 4
_T5 = {
    "d_model": HIDDEN,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": LAYERS,
    "num_heads": 2,
    "decoder_start_token_id": PAD,
}
_LOCAL = {
    "global_attn_every_n_layers": 2,
    "local_attention": 4,
    "reference_compile": False,
    "cls_token_id": BOS,
    "sep_token_id": EOS,
}
_SPEECH = {
    "num_mel_bins": 4,
    "max_source_positions": 6,
    "max_target_positions": 32,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}

FAMILIES = (
    Family("bert", "encoder", "BertConfig", _ENCODER, _wide()),
    Family("roberta", "encoder", "RobertaConfig", _ENCODER, _wide(type_vocab_size=1)),
    Family("xlm-r", "encoder", "XLMRobertaConfig", _ENCODER, _wide(type_vocab_size=1)),
    Family("distilbert", "encoder", "DistilBertConfig", _ENCODER, _DISTIL),
    Family("deberta-v2", "encoder", "DebertaV2Config", _ENCODER, _wide(**_DEBERTA_V3)),
    Family("modernbert", "encoder", "ModernBertConfig", _ENCODER, _wide(**_LOCAL)),
    Family(
        "xmod",
        "encoder",
        "XmodConfig",
        _ENCODER,
        _wide(languages=("en_XX",), default_language="en_XX"),
    ),
    Family("gpt2", "decoder", "GPT2Config", _DECODER, _GPT2),
    Family("bloom", "decoder", "BloomConfig", ("causal_lm", _TAGS, _CLS), _BLOOM),
    Family("llama", "decoder", "LlamaConfig", _DECODER, _grouped()),
    Family("qwen3", "decoder", "Qwen3Config", _DECODER, _grouped()),
    Family(
        "gemma3",
        "decoder",
        "Gemma3TextConfig",
        ("causal_lm", _CLS),
        _grouped(query_pre_attn_scalar=8, **_SLIDING),
    ),
    Family("mistral", "decoder", "MistralConfig", _DECODER, _grouped(sliding_window=4)),
    Family("mt5", "encoder_decoder", "MT5Config", ("seq2seq_lm", _TAGS, _CLS, _QA), _T5),
    Family("mbart", "encoder_decoder", "MBartConfig", ("seq2seq_lm", _CLS, _QA), _two_sided()),
    Family("m2m-100", "encoder_decoder", "M2M100Config", ("seq2seq_lm",), _two_sided()),
    Family("whisper", "speech", "WhisperConfig", ("speech_seq2seq",), _two_sided(**_SPEECH)),
)


@dataclass(frozen=True)
class TinyModel:
    """One cell of the bank: a family with a head. `make()` gives a model, `batch(seed)` what it is
    called with.
    """

    family: Family
    head: str

    def __str__(self) -> str:
        return f"{self.family.name}-{self.head}"

    @property
    def name(self) -> str:
        return self.family.name

    @property
    def kind(self) -> str:
        """`"encoder"`, `"decoder"`, `"encoder_decoder"` or `"speech"`."""
        return self.family.kind

    def config(self, dropout: float = 0.1) -> transformers.PretrainedConfig:
        config = getattr(transformers, self.family.config)(
            vocab_size=VOCABULARY, **_TOKENS, **self.family.sizes
        )
        config.num_labels = 2 if self.head == _QA else CLASSES
        for name in config.to_dict():
            if "layerdrop" in name:  # a dropped layer would have no gradient
                setattr(config, name, 0.0)
            elif "dropout" in name or "pdrop" in name:
                setattr(config, name, dropout)
        return config

    def make(self, dtype: torch.dtype = torch.float32, dropout: float = 0.1, seed: int = 0) -> Any:
        """A model in evaluation mode, as `from_pretrained` returns it; `.train()` switches the
        dropout on.

        No weight keeps a special value (a zero bias, a unit scale), so that a mistake on any path
        shows.
        """
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "`torch.jit", DeprecationWarning
            )  # on import, by transformers 4
            torch.manual_seed(seed)
            model = getattr(transformers, HEADS[self.head]).from_config(self.config(dropout))
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.1 * torch.randn_like(parameter))
        return model.to(dtype).eval()

    def batch(
        self, seed: int = 0, rows: int = 2, length: int = 8, dtype: torch.dtype = torch.float32
    ) -> dict[str, Any]:
        """Inputs and labels of a loss that reaches every parameter of the body; the last of several
        rows is padded.

        `dtype` is that of the model, for the speech features.
        """
        random = torch.Generator().manual_seed(seed)

        def words(end: int = VOCABULARY, start: int = 0, columns: int = length) -> torch.Tensor:
            return torch.randint(start, end, (rows, columns), generator=random)

        mask = torch.ones(rows, length, dtype=torch.long)
        if rows > 1:
            mask[-1, -2:] = 0
        last = mask.sum(1, keepdim=True) - 1
        input_ids = words(start=FIRST_WORD).scatter(1, last, EOS).masked_fill(mask == 0, PAD)
        batch = {"input_ids": input_ids, "attention_mask": mask}
        targets = words(start=FIRST_WORD).masked_fill(mask == 0, -100)
        if self.head == "speech_seq2seq":
            frames = 2 * _SPEECH["max_source_positions"]
            features = torch.randn(
                rows, _SPEECH["num_mel_bins"], frames, generator=random, dtype=torch.float64
            )
            return {"input_features": features.to(dtype), "labels": targets}
        if self.head == _QA:
            return batch | {
                "start_positions": words(length - 2, 0, 1)[:, 0],
                "end_positions": words(length - 2, 0, 1)[:, 0],
            }
        labels = {
            "causal_lm": input_ids.masked_fill(mask == 0, -100),
            _TAGS: words(CLASSES).masked_fill(mask == 0, -100),
            _CLS: words(CLASSES, 0, 1)[:, 0],
        }
        return batch | {"labels": labels.get(self.head, targets)}


MODELS = tuple(TinyModel(family, head) for family in FAMILIES for head in family.heads)
PRETRAINING = tuple(TinyModel(family, family.heads[0]) for family in FAMILIES)
"""Each family once, with the head that it is pretrained with."""


def tiny(name: str, head: str | None = None) -> TinyModel:
    """The cell of a family, by default with the head that it is pretrained with."""
    family = {family.name: family for family in FAMILIES}[name]
    return TinyModel(family, head or family.heads[0])


@contextmanager
def in_double() -> Iterator[None]:
    """Make `.float()`, `.to(torch.float32)` and `dtype=torch.float32` mean float64.

    Norms and softmaxes of many models compute in float32 whatever the type of the model, so that a
    float64 model is exact to seven digits only: too few for a numerical derivative.
    """
    with _InDouble():
        yield


class _InDouble(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        args = tuple(torch.float64 if argument is torch.float32 else argument for argument in args)
        return func(
            *args,
            **{k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()},
        )
