"""Ranking of translations: the loss by hand, batches of one language and of several, and pairs."""

import gzip
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from hf_meta_adapters import BottleneckConfig, get_language_model
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.pretraining import train_tokenizer
from hf_meta_adapters.steps.routed_loss import RoutedLoss
from hf_meta_adapters.study.parallel_rows import ParallelRows, embed_texts, parallel_texts
from hf_meta_adapters.study.translation_ranking import (
    TranslationCollator,
    TranslationRanker,
    mean_states,
)

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
LINES = ["a cat saw a dog", "the dog", "no cat at all", "a house", "the sea is blue", "one day"]


@pytest.fixture
def tokenizer() -> Any:
    return train_tokenizer(LINES * 5, vocabulary=60, max_length=16)


@pytest.fixture
def encoder(tokenizer: Any) -> BertForMaskedLM:
    config = BertConfig(
        vocab_size=len(tokenizer),
        intermediate_size=16,
        pad_token_id=tokenizer.pad_token_id,
        **SIZES,
    )
    return BertForMaskedLM(config).eval()


class Fixed(torch.nn.Module):
    """A body whose states are given."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.config = BertConfig(**SIZES)
        self.states = states

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return (self.states,)


def test_the_loss_by_hand() -> None:
    # The mean of the two tokens is (3, 4) / 5 at length 1; what is padding does not count.
    states = torch.tensor([[[6.0, 0.0], [0.0, 8.0], [100.0, -7.0]]])
    mask = torch.tensor([[1, 1, 0]])
    candidates = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    body: Any = Fixed(states)
    ranker = TranslationRanker(body, "bert", temperature=0.5, candidates=3)
    found = ranker(
        input_ids=torch.zeros(1, 3, dtype=torch.long),
        attention_mask=mask,
        candidates=candidates,
        labels=torch.tensor([1]),
    )
    powers = [math.exp(2 * cosine) for cosine in (0.6, 0.8, -0.6)]
    assert float(found.loss) == pytest.approx(-math.log(powers[1] / sum(powers)), rel=1e-5)
    assert found.logits.tolist()[0] == pytest.approx([1.2, 1.6, -1.2])
    assert torch.equal(mean_states(states, mask), mean_states(states[:, :2], None))


def batches(tokenizer: Any) -> dict[str, Any]:
    table = torch.nn.functional.normalize(torch.randn(6, 8), dim=-1)
    collator = TranslationCollator(tokenizer, table)
    rows = [
        {"input_ids": tokenizer(line)["input_ids"], "translation": number}
        for number, line in enumerate(LINES)
    ]
    return {"en": collator(rows[:3]), "sw": collator(rows[3:]), "table": table}


def test_a_batch_brings_its_candidates_along(tokenizer: Any) -> None:
    made = batches(tokenizer)
    assert made["sw"]["labels"].tolist() == [0, 1, 2]
    for row in range(3):
        assert torch.equal(made["sw"]["candidates"][row], made["table"][3:])
    assert made["sw"]["attention_mask"].sum(1).tolist() == [
        len(tokenizer(line)["input_ids"]) for line in LINES[3:]
    ]


def test_languages_of_one_pass_have_the_losses_of_their_own_passes(
    tokenizer: Any, encoder: BertForMaskedLM
) -> None:
    ranker = TranslationRanker(encoder.bert, "bert", temperature=0.05, candidates=3)
    model = get_language_model(ranker, BottleneckConfig(bottleneck_size=2), ["en", "sw"]).eval()
    with torch.no_grad():
        for language in model.languages:
            for parameter in model.language_parameters(language).values():
                parameter.normal_()

    made = batches(tokenizer)
    del made["table"]
    loss = RoutedLoss(model)
    together = loss.sums(model, loss.together(model, made)) / 3
    alone = []
    for language, batch in made.items():
        with model.use_language(language):
            alone.append(model(**batch).loss)
    assert torch.allclose(together, torch.stack(alone), atol=1e-5)

    # Of θ and the φ of the language alone.
    gradients = torch.autograd.grad(
        alone[0], list(model.language_parameters("sw").values()), allow_unused=True
    )
    assert set(gradients) == {None}


def test_vectors_are_those_of_single_rows(tokenizer: Any, encoder: BertForMaskedLM) -> None:
    vectors = embed_texts(encoder, tokenizer, LINES, max_length=16)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(6))
    for line, vector in zip(LINES, vectors, strict=True):
        ids = torch.tensor([tokenizer(line)["input_ids"]])
        states = encoder.bert(input_ids=ids)[0]
        expected = states.mean(1)[0]
        assert torch.allclose(vector, expected / expected.norm(), atol=1e-5)


def write(folder: Path, language: str, lines: dict[str, str]) -> None:
    path = folder / "parallel" / language / "train.tsv.gz"
    path.parent.mkdir(parents=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{key}\t{text}\n" for key, text in lines.items())


def test_each_text_stands_opposite_its_own_translation(tmp_path: Path) -> None:
    keys = [str(number) for number in range(8)]
    for language in ("en", "sw", "hi"):
        write(
            tmp_path,
            language,
            {key: f"{language} {key}" for key in keys if language + key != "hi7"},
        )
    pairs = parallel_texts(tmp_path, ["en", "sw", "hi"], "en", 6)
    for language, own in pairs.items():
        assert len({text for text, _ in own}) == len(own) == 6
        for text, other in own:
            assert text.split()[0] == language
            assert text.split()[1] == other.split()[1]
            assert (other.split()[0] == "en") == (language != "en")

    # One other language in turn.
    assert [other.split()[0] for _, other in pairs["en"]] == ["sw", "hi"] * 3
    assert pairs == parallel_texts(tmp_path, ["en", "sw", "hi"], "en", 6)

    write(tmp_path, "te", {"9": "alone"})
    with pytest.raises(DataError, match=r"Found none of 'en' in \['te'\]"):
        parallel_texts(tmp_path, ["en", "te"], "en", 6)
    with pytest.raises(DataError, match=r"Found no .*ru.train\.tsv\.gz"):
        parallel_texts(tmp_path, ["en", "ru"], "en", 6)


def test_rows_come_back_as_they_were_saved(tmp_path: Path) -> None:
    rows = ParallelRows({"sw": ["jua", "bahari"]}, {"sw": torch.eye(2)})
    rows.save(tmp_path)
    loaded = ParallelRows.load(tmp_path)
    assert loaded.texts == {"sw": ["jua", "bahari"]}
    assert torch.equal(loaded.vectors["sw"], torch.eye(2))
