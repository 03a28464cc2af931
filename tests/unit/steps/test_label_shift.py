"""Whether the first label of a row counts is found out by trying, on every model and loss."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy

from hf_meta_adapters import (
    MetaAdapterTrainingArguments,
    SparseHead,
    get_data_collator,
    get_language_model,
    joint_step,
)
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.steps.label_shift import first_label_counts, reads_ahead
from hf_meta_adapters.steps.losses import model_loss, predicts_the_next_token
from hf_meta_adapters.training._setup_checks import check_setup
from tests.tiny import HIDDEN, MODELS, VOCABULARY, tiny
from tests.training import make_model, make_tokenizer

_DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
_VISION = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "image_size": 8,
    "patch_size": 4,
    "projection_dim": 8,
    "vision_use_head": False,
}
_GPT = {"vocab_size": VOCABULARY, "n_embd": HIDDEN, "n_layer": 2, "n_head": 2, "n_positions": 32}
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": HIDDEN,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_BERT = {"vocab_size": VOCABULARY, "num_attention_heads": 2, "num_hidden_layers": 2}
_BERT |= {"hidden_size": HIDDEN, "intermediate_size": 32, "is_decoder": True}
_XLM = {"vocab_size": VOCABULARY, "emb_dim": HIDDEN, "n_layers": 2, "n_heads": 2, "pad_index": 0}


def config(name: str, **options: Any) -> Any:
    return getattr(transformers, name)(**options)


def vision_language(name: str, **options: Any) -> Any:
    text = {"model_type": "llama", **_DECODER, "pad_token_id": 0}
    if name == "Gemma3Config":
        text = {**_DECODER, "query_pre_attn_scalar": 8, "pad_token_id": 0}
    vision = {"model_type": "siglip_vision_model", **_VISION}
    given = {"image_token_id": 60, "image_token_index": 60, **options}
    return config(name, text_config=text, vision_config=vision, **given)


MIXTURE = {"num_local_experts": 2, "num_experts_per_tok": 1, "output_router_logits": True}
OTHERS: dict[str, tuple[Any, bool]] = {
    # class → its config, and whether the first label counts
    "Gemma3ForConditionalGeneration": (lambda: vision_language("Gemma3Config"), False),
    "LlavaForConditionalGeneration": (lambda: vision_language("LlavaConfig"), False),
    "Gemma2ForCausalLM": (
        lambda: config("Gemma2Config", **_DECODER, final_logit_softcapping=2.0),
        False,
    ),
    "MixtralForCausalLM": (lambda: config("MixtralConfig", **_DECODER, **MIXTURE), False),
    "GPT2DoubleHeadsModel": (lambda: config("GPT2Config", **_GPT), False),
    "OpenAIGPTLMHeadModel": (lambda: config("OpenAIGPTConfig", **_GPT), False),
    "BertLMHeadModel": (lambda: config("BertConfig", **_BERT), False),
    "BartForCausalLM": (lambda: config("BartConfig", **_BART), True),
    "MBartForCausalLM": (lambda: config("MBartConfig", **_BART), True),
    "PegasusForCausalLM": (lambda: config("PegasusConfig", **_BART), True),
    "XLMWithLMHeadModel": (lambda: config("XLMConfig", **_XLM), True),
}


def other(name: str) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, name)(OTHERS[name][0]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def words(length: int, seed: int) -> dict[str, torch.Tensor]:
    tokens = torch.randint(5, 50, (1, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}


def entropies(model: Any, batch: dict[str, Any]) -> dict[bool, float]:
    """The cross-entropy by plain PyTorch: whether the first label counts → its value."""
    logits, labels = model(**batch).logits, batch["labels"]
    shifted = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return {
        True: float(cross_entropy(logits.flatten(0, 1), labels.flatten())),
        False: float(cross_entropy(*shifted)),
    }


@pytest.mark.parametrize(
    "cell", [cell for cell in MODELS if "classif" not in cell.head or "token" in cell.head], ids=str
)
@torch.no_grad()
def test_every_model_of_the_bank(cell: Any) -> None:
    model, batch = cell.make(), cell.batch()
    if "labels" not in batch:  # spans of answers
        assert first_label_counts(model, batch, model_loss)
        return
    found = first_label_counts(model, batch, model_loss)
    assert float(model(**batch).loss) == pytest.approx(entropies(model, batch)[found], rel=1e-5)


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_every_other_model(name: str) -> None:
    """Two micro-batches of one language have the mean over all of its labels."""
    base, expected = other(name), OTHERS[name][1]
    assert first_label_counts(base, None, model_loss) == expected
    parts = [words(2, 1), words(9, 2)]
    counts = [len(part["labels"][0]) - (not expected) for part in parts]
    values = [entropies(base, part)[expected] for part in parts]
    mean = sum(n * value for n, value in zip(counts, values, strict=True)) / sum(counts)

    own = [float(base(**part).loss) for part in parts]
    if "Mixtral" in name:  # adds a term of the router, which is a mean of its own
        mean = sum(n * value for n, value in zip(counts, own, strict=True)) / sum(counts)
    elif "Pegasus" not in name:
        assert own == pytest.approx(values, rel=1e-5)

    model = get_language_model(base, None, ["sw"])
    with torch.enable_grad():
        found = joint_step(model, {"sw": parts}).train_loss["sw"]
        sparse = joint_step(model, {"sw": parts}, loss_function=SparseHead(model)).train_loss["sw"]
    assert float(found) == pytest.approx(mean, rel=1e-5)
    assert float(sparse) == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("name", ["Gemma3ForConditionalGeneration", "GPT2DoubleHeadsModel"])
def test_labels_of_a_model_that_shifts_are_not_smoothed(name: str, tmp_path: Any) -> None:
    args = MetaAdapterTrainingArguments(str(tmp_path), label_smoothing_factor=0.1)
    with pytest.raises(ConfigurationError, match="`label_smoothing_factor` must be 0"):
        check_setup(get_language_model(other(name), None, ["sw"]), args, None)
    check_setup(get_language_model(other("BartForCausalLM"), None, ["sw"]), args, None)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("name", ["llama", "xlm-r"])
def test_equal_logits_are_no_tie(name: str, constant: bool) -> None:
    model = make_model(name=name)
    if constant:
        with torch.no_grad():
            for parameter in model.base_model.parameters():
                parameter.zero_()
    assert first_label_counts(model, None, model_loss) == (name == "xlm-r")


def test_a_loss_function_decides_for_itself() -> None:
    """Labels that the data have shifted already, of a model that would shift them again."""
    model = make_model(name="llama")

    def unshifted(model: Any, batch: Any) -> torch.Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        return cross_entropy(model(**inputs).logits.flatten(0, 1), batch["labels"].flatten())

    def over_a_batch(model: Any, batch: Any) -> torch.Tensor:
        return model(**batch, num_items_in_batch=torch.tensor(7)).loss

    assert not first_label_counts(model, None, model_loss)
    assert not first_label_counts(model, None, over_a_batch)
    assert first_label_counts(model, None, unshifted)


def test_it_leaves_no_trace_and_is_done_once() -> None:
    model = make_model(name="llama", dropout=0.5).train()
    part = model.base_model.model.layers[0]
    part.eval()
    modes = [one.training for one in model.modules()]
    seen: list[bool] = []
    model.register_forward_pre_hook(
        lambda one, _: seen.append(torch.is_grad_enabled() or one.training)
    )
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for _ in range(3):
        assert predicts_the_next_token(model)
    assert torch.equal(torch.rand(3), expected)
    assert [one.training for one in model.modules()] == modes
    assert seen == [False, False]
    assert model.language is None
    assert all(parameter.grad is None for parameter in model.parameters())

    gone = weakref.ref(model)
    del model, part
    gc.collect()
    assert gone() is None


def test_under_autocast() -> None:
    model = make_model(name="llama", dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert predicts_the_next_token(model)


def test_a_head_that_is_asked_for_nothing_first_is_compared_with_made_up_labels() -> None:
    """Means over no labels are alike, whatever the head: they say nothing about it."""
    cell = tiny("xlm-r")
    model = make_model()
    empty = {**cell.batch(), "labels": torch.full((2, 8), -100)}

    def first_row(model: Any, batch: Any) -> torch.Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        return cross_entropy(model(**inputs).logits[0], batch["labels"][0])

    head = SparseHead(model, first_row)
    with model.use_language("te"):
        head(model, empty)
        assert head.active is False
        assert torch.equal(head(model, cell.batch()), first_row(model, cell.batch()))


@pytest.mark.parametrize(
    "name",
    [
        "Gemma3ForConditionalGeneration",
        "LlavaForConditionalGeneration",
        "BartForCausalLM",
        "MBartForCausalLM",
        "BertLMHeadModel",
    ],
)
@torch.no_grad()
def test_the_collator_makes_the_next_token_the_target(name: str) -> None:
    model, tokenizer = other(name), make_tokenizer()
    rows = [{"input_ids": [5, 6, 7, 8, 9]}, {"input_ids": [9, 8, 7]}]
    batch = get_data_collator(model, tokenizer)(rows)
    logits = model(**{n: v for n, v in batch.items() if n != "labels"}).logits
    targets = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)[:, 1:]
    expected = cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())
    assert float(model(**batch).loss) == pytest.approx(float(expected), rel=1e-5)


def test_a_derived_class_is_pretrained_like_its_parent() -> None:
    class Mine(transformers.LlamaForCausalLM):
        pass

    collator = get_data_collator(Mine(tiny("llama").config()), make_tokenizer())
    assert collator([{"input_ids": [5, 6]}])["labels"].tolist() == [[5, 6]]


def test_a_model_that_reads_what_it_is_asked_for_gets_no_labels() -> None:
    sizes = {"vocab_size": VOCABULARY, "d_model": HIDDEN, "n_layer": 1, "n_head": 2, "d_inner": 16}
    model = transformers.XLNetLMHeadModel(transformers.XLNetConfig(**sizes)).eval()
    assert reads_ahead(model)
    assert not reads_ahead(tiny("llama").make())
    assert get_data_collator(model, make_tokenizer()) is None
