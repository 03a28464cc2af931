"""Rows of embeddings for new pieces, in models of every family."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers import LlamaForCausalLM

from hf_meta_adapters import (
    BottleneckConfig,
    LanguageAdapterModel,
    extend_vocabulary,
    get_language_model,
)
from hf_meta_adapters.errors import ConfigurationError, DataError, UnsupportedModelError
from tests.adapted import outputs, same, snapshot, stirred, trained_as_owned
from tests.tiny import PRETRAINING, VOCABULARY, TinyModel, tiny
from tests.unit.vocabulary.cases import letters

TEXTS = ["habari"] * 7 + ["nahari"] * 3 + ["bahari"] * 2
SIZE = 4


def tied(cell: TinyModel, flag: bool) -> Any:
    config = cell.config()
    config.tie_word_embeddings = flag
    torch.manual_seed(0)
    model = type(cell.make())(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def with_tokens(cell: TinyModel, first: int = 3, end: int = VOCABULARY) -> dict[str, Any]:
    """A batch whose tokens lie in a range."""
    batch = cell.batch(length=6)
    batch.pop("labels")
    if cell.kind == "speech":
        tokens = torch.arange(first, first + 6).clamp(max=end - 1)
        return {**batch, "decoder_input_ids": tokens.expand(2, 6)}

    batch["input_ids"] = batch["input_ids"].clamp(first, end - 1)
    if cell.kind == "encoder_decoder":
        batch["decoder_input_ids"] = batch["input_ids"]
    return batch


UNTIED = ("bert", "roberta", "llama", "qwen3", "gpt2")
CELLS = [(cell, None) for cell in PRETRAINING] + [(tiny(name), False) for name in UNTIED]


@pytest.mark.parametrize(("cell", "tie"), CELLS, ids=lambda value: str(value))
def test_every_family_gets_the_means_of_rows(
    cell: TinyModel, tie: bool | None, tmp_path: Path
) -> None:
    model = cell.make() if tie is None else tied(cell, tie)
    batch, tokenizer = with_tokens(cell), letters(VOCABULARY)
    logits = outputs(model, batch)[0]
    before = model.get_input_embeddings().weight.detach().clone()
    heads = [part.weight.detach().clone() for part in [model.get_output_embeddings()] if part]

    added = extend_vocabulary(model, tokenizer, TEXTS, SIZE)

    assert added.pieces[:2] == ("ar", "ari")
    end = VOCABULARY + SIZE
    assert model.get_input_embeddings().weight.shape[0] == end == model.config.vocab_size
    parts = [model.get_input_embeddings(), model.get_output_embeddings()]
    for part, old in zip(parts, [before, *heads], strict=False):
        assert torch.equal(part.weight[:VOCABULARY], old)
        for number, piece in enumerate(added.pieces):
            rows = old[[VOCABULARY - 26 + ord(letter) - 97 for letter in piece]]
            torch.testing.assert_close(part.weight[VOCABULARY + number], rows.mean(0))

    # old tokens have the scores that they had, and a new one the mean of those of its pieces
    present = outputs(model, batch)[0]
    assert torch.equal(present[..., :VOCABULARY], logits)
    a, r = VOCABULARY - 26, VOCABULARY - 26 + 17
    torch.testing.assert_close(present[..., VOCABULARY], (logits[..., a] + logits[..., r]) / 2)

    # in training mode as before, and loaded as it is by plain transformers
    assert {part.training for part in model.modules()} == {False}
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    new = with_tokens(cell, VOCABULARY - 2, end)
    assert same(outputs(loaded, new), outputs(model, new))


def test_rows_that_a_model_has_to_spare_are_taken_first() -> None:
    model, tokenizer = tiny("llama").make(), letters(VOCABULARY - 3)
    extend_vocabulary(model, tokenizer, TEXTS, 2)
    assert model.config.vocab_size == VOCABULARY
    extend_vocabulary(model, tokenizer, TEXTS, 2)
    assert model.config.vocab_size == VOCABULARY + 1 == len(tokenizer)


@pytest.mark.parametrize("options", [{}, {"shared": "none"}, {"share_adapter": True}], ids=str)
@pytest.mark.parametrize("name", ["bert", "llama", "mt5"])
def test_a_family_grows(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    cell = tiny(name)
    config = BottleneckConfig(bottleneck_size=3)
    model = stirred(get_language_model(cell.make(), config, ["en", "sw"], **options))
    batch = with_tokens(cell)
    before = outputs(model, batch, language="sw")[0]

    extend_vocabulary(model, letters(VOCABULARY), TEXTS, 3)

    assert trained_as_owned(model)
    assert torch.equal(outputs(model, batch, language="sw")[0][..., :VOCABULARY], before)
    model.add_language("yo", copy_from="sw" if not options.get("share_adapter") else None)
    model.save_pretrained(tmp_path)
    loaded = LanguageAdapterModel.from_pretrained(tmp_path)
    new = with_tokens(cell, VOCABULARY - 2, VOCABULARY + 3)
    for key in ("sw", "yo"):
        assert same(outputs(loaded, new, language=key), outputs(model, new, language=key))


def test_a_language_that_is_trained_alone_leaves_the_rows_frozen() -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"])
    model = get_language_model(tied(tiny("llama"), False), config, ["en", "sw"])
    model.train_only("sw")
    extend_vocabulary(model, letters(VOCABULARY), TEXTS, 3)
    assert trained_as_owned(model)
    assert not model.shared_parameters()


class Quantized(nn.Linear):
    def __init__(self) -> None:
        super().__init__(16, VOCABULARY, bias=False)
        self.weight = nn.Parameter(torch.zeros(VOCABULARY, 16, dtype=torch.int8), False)


def in_embeddings() -> Any:
    config = LoraConfig(r=2, target_modules=["embed_tokens"])
    return get_language_model(tiny("llama").make(), config, ["en"])


def quantized() -> Any:
    model = tied(tiny("llama"), False)
    model.lm_head = Quantized()
    return model


def on_meta() -> Any:
    with torch.device("meta"):
        return LlamaForCausalLM(tiny("llama").config())


def slow() -> Any:
    from tests.training import make_tokenizer

    return make_tokenizer()


class NoBackend:
    """What a tokenizer without the library `tokenizers` is."""


GOOD: dict[str, Any] = {"size": 2, "texts": TEXTS}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"size": 0}, ConfigurationError, "at least 1. Found 0"),
        ({"size": True}, ConfigurationError, "Found True"),
        ({"size": 2.5}, ConfigurationError, "Found 2.5"),
        ({"size": 999}, DataError, "Found 9 pieces and `size=999`. Pass more text, or `size=9`"),
        ({"init": "magic"}, ConfigurationError, "one of .'mean', 'focus'.. Found 'magic'"),
        ({"texts": "habari"}, DataError, r"Found one string. Pass `\[text\]`"),
        ({"texts": []}, DataError, "Found no text in 0 strings"),
        ({"texts": ["a", 3]}, DataError, "Found a `int` among them"),
        ({"tokenizer": NoBackend()}, ConfigurationError, "a fast one.* Found `NoBackend`"),
        ({"tokenizer": slow()}, ConfigurationError, "BPE, Unigram, WordPiece.* Found `WordLevel`"),
        ({"tokenizer": letters(99)}, ConfigurationError, "Found 64 embeddings and 99 tokens"),
        ({"model": nn.Linear(2, 2)}, UnsupportedModelError, "Found a `Linear`"),
        ({"model": in_embeddings()}, UnsupportedModelError, "input embeddings must be a plain"),
        ({"model": quantized()}, UnsupportedModelError, "output embeddings must .* `Quantized`"),
        ({"model": on_meta()}, UnsupportedModelError, "sharded or offloaded"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_extended_stays_as_it_was(
    changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    model, tokenizer = tiny("llama").make(), letters(VOCABULARY)
    given = {"model": model, "tokenizer": tokenizer, **GOOD, **changed}
    is_real = not isinstance(given["model"], nn.Linear) and given["model"].device.type != "meta"
    before = snapshot(given["model"]) if is_real else {}
    text = tokenizer.backend_tokenizer.to_str()

    with pytest.raises(error, match=message):
        extend_vocabulary(**given)

    if is_real:
        assert all(torch.equal(now, before[name]) for name, now in snapshot(given["model"]).items())
    assert tokenizer.backend_tokenizer.to_str() == text


def test_focus_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_meta_adapters.vocabulary._focus.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="pip install deepfocus"):
        extend_vocabulary(tiny("llama").make(), letters(VOCABULARY), TEXTS, 2, init="focus")


def test_focus_decides_rows_of_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in: the library trains fastText, which takes a while, and may be absent."""
    asked: dict[str, Any] = {}

    def focus(**given: Any) -> torch.Tensor:
        asked.update(given, lines=Path(given["target_training_data_path"]).read_text().split("\n"))
        extended = len(given["target_tokenizer"])
        asked["sizes"] = (len(given["source_tokenizer"]), extended)
        return torch.arange(extended * 16.0).reshape(extended, 16)

    library = SimpleNamespace(FOCUS=focus, __spec__=ModuleSpec("deepfocus", None))
    monkeypatch.setitem(sys.modules, "deepfocus", library)
    model, tokenizer = tied(tiny("llama"), False), letters(VOCABULARY)
    before = model.get_input_embeddings().weight.detach().clone()
    means = extend_vocabulary(tied(tiny("llama"), False), letters(VOCABULARY), TEXTS, 2)
    assert means.pieces == ("ar", "ari")

    extend_vocabulary(model, tokenizer, TEXTS, 2, init="focus")

    assert asked["lines"] == TEXTS
    assert torch.equal(asked["source_embeddings"], before)
    assert asked["sizes"] == (VOCABULARY, VOCABULARY + 2)
    rows = model.get_input_embeddings().weight
    assert torch.equal(rows[:VOCABULARY], before)
    expected = torch.arange(VOCABULARY * 16.0, (VOCABULARY + 2) * 16.0)
    assert torch.equal(rows[VOCABULARY:], expected.reshape(2, 16))
    head = model.get_output_embeddings().weight
    a, r = VOCABULARY - 26, VOCABULARY - 26 + 17
    torch.testing.assert_close(head[VOCABULARY], (head[a] + head[r]) / 2)


def test_the_result_is_a_table_and_json() -> None:
    added = extend_vocabulary(tiny("llama").make(), letters(VOCABULARY), TEXTS, 2)
    assert added.to_dict()["pieces"] == ["ar", "ari"]
    cells = added.to_markdown().splitlines()[-1].split("|")
    assert [cell.strip() for cell in cells if cell] == ["2", "72", "48", "33.3 %"]
