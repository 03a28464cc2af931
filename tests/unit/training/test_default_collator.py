"""Without a collator of the user's, rows of text become what such models are pretrained on."""

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from hf_meta_adapters import (
    BottleneckConfig,
    MetaAdapterTrainer,
    MetaAdapterTrainingArguments,
    get_data_collator,
    get_language_model,
)
from hf_meta_adapters.errors import DataError
from tests.tiny import MODELS, VOCABULARY

PAD, EOS, MASK = 0, 2, VOCABULARY - 1
ROWS = [
    {"input_ids": [*range(5, 25), EOS], "attention_mask": [1] * 21},
    {"input_ids": [5, 6, 7, EOS]},
]
ROWS[1]["attention_mask"] = [1] * 4
OF_TEXT = ("masked_lm", "causal_lm", "seq2seq_lm")


def make_tokenizer(*, sentinels: str = "", **names: str) -> PreTrainedTokenizerFast:
    words = {"<pad>": PAD, "<s>": 1, "</s>": EOS, "<mask>": MASK}
    words |= {
        f"{sentinels}<extra_id_{k}>": VOCABULARY - 2 - k for k in range(4 if sentinels else 0)
    }
    words |= {f"w{k}": k for k in range(VOCABULARY) if k not in words.values()}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w3")), **names
    )


FULL = {"pad_token": "<pad>", "eos_token": "</s>", "mask_token": "<mask>"}


@pytest.mark.parametrize("tiny", [one for one in MODELS if one.head in OF_TEXT], ids=str)
def test_every_language_model_trains_on_text_without_a_collator(tiny, tmp_path):
    model = get_language_model(tiny.make(), BottleneckConfig(bottleneck_size=2), ["en", "sw"])
    rows = {
        key: [
            {"input_ids": [first + k, *range(first, first + 9), EOS], "attention_mask": [1] * 11}
            for k in range(12)
        ]
        for key, first in (("en", 5), ("sw", 25))
    }
    args = MetaAdapterTrainingArguments(
        tmp_path, max_steps=1, report_to="none", disable_tqdm=True, save_strategy="no"
    )
    trainer = MetaAdapterTrainer(
        model, args, train_dataset=rows, processing_class=make_tokenizer(**FULL)
    )
    step = next(iter(trainer.get_train_dataloader()))
    for batches in step.values():
        for batch in batches.values():
            assert (batch["labels"] != -100).any()
    assert trainer.train().training_loss > 0


@pytest.mark.parametrize("tiny", [one for one in MODELS if one.head in OF_TEXT], ids=str)
def test_what_is_asked_for_is_the_objective_of_the_kind(tiny):
    torch.manual_seed(0)
    model = get_language_model(tiny.make(), None, ["en"])
    batch = get_data_collator(model, make_tokenizer(**FULL))(ROWS)
    inputs, labels, attended = batch["input_ids"], batch["labels"], batch["attention_mask"].bool()
    whole = [row["input_ids"] for row in ROWS]
    if tiny.head == "causal_lm":
        assert [row[keep].tolist() for row, keep in zip(inputs, attended, strict=True)] == whole
        assert torch.equal(labels, inputs.masked_fill(~attended, -100))
    elif tiny.head == "masked_lm":
        assert (labels[attended] != -100).any()
        assert (labels[~attended] == -100).all()
        asked = labels != -100
        expected = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in whole], batch_first=True
        )
        assert torch.equal(labels[asked], expected[asked])
        assert torch.equal(inputs[~asked], expected[~asked])
    else:
        assert MASK in inputs[0]
        assert [row[row != -100].tolist() for row in labels] == whole


@pytest.mark.parametrize("sentinels", ["▁", " "])
def test_sentinels_are_those_of_the_tokenizer(sentinels):
    model = next(one for one in MODELS if str(one) == "mt5-seq2seq_lm").make()
    tokenizer = make_tokenizer(sentinels=sentinels.strip(" ") or "", **FULL)
    if sentinels == " ":
        tokenizer.add_special_tokens(
            {"additional_special_tokens": ["<extra_id_0>", "<extra_id_1>"]}
        )
    batch = get_data_collator(model, tokenizer)(ROWS[:1])
    first = tokenizer.convert_tokens_to_ids(f"{sentinels.strip(' ')}<extra_id_0>")
    assert batch["labels"][0, 0] == first
    assert first in batch["input_ids"][0]
    assert batch["labels"][0, -1] == EOS


def test_a_tokenizer_without_padding_pads_and_the_end_of_text_stays_a_label():
    model = next(one for one in MODELS if str(one) == "llama-causal_lm").make()
    tokenizer = make_tokenizer(eos_token="</s>")
    batch = get_data_collator(model, tokenizer)(ROWS)
    assert batch["labels"][1].tolist() == [5, 6, 7, EOS, *[-100] * 17]
    assert batch["input_ids"][1].tolist() == [5, 6, 7, EOS, *[EOS] * 17]
    assert tokenizer.pad_token is None  # the user's own is left as it was


@pytest.mark.parametrize(
    "tiny", [one for one in MODELS if one.head in (*OF_TEXT, "token_classification")], ids=str
)
def test_labels_that_are_there_are_kept(tiny):
    rows = [{**row, "labels": [k % 3 for k in range(len(row["input_ids"]))]} for row in ROWS]
    batch = get_data_collator(tiny.make(), make_tokenizer(pad_token="<pad>"))(rows)
    assert [row[row != -100].tolist() for row in batch["labels"]] == [row["labels"] for row in rows]
    assert batch["input_ids"][0].tolist() == ROWS[0]["input_ids"]


def test_heads_of_other_kinds_are_left_to_transformers():
    for one in MODELS:
        if one.head in ("sequence_classification", "question_answering", "speech_seq2seq"):
            assert get_data_collator(one.make(), make_tokenizer(**FULL)) is None


@pytest.mark.parametrize("name", ["xlm-r-masked_lm", "m2m-100-seq2seq_lm"])
def test_text_without_a_mask_is_refused(name):
    model = next(one for one in MODELS if str(one) == name).make()
    with pytest.raises(DataError, match=r"neither in the tokenizer.*Pass rows with `labels`"):
        get_data_collator(model, make_tokenizer(pad_token="<pad>", eos_token="</s>"))(ROWS)
