"""Spans are cut out as T5 and BART do it: nothing is lost, as much as said is hidden, every
division is as likely.
"""

from collections import Counter
from itertools import pairwise

import pytest
import torch

from hf_meta_adapters.data import SpanCorruptionCollator
from hf_meta_adapters.errors import ConfigurationError

PAD, EOS, MASK, LANGUAGE = 0, 1, 2, 3
SENTINELS = tuple(range(199, 99, -1))
SPECIAL = {PAD, EOS, MASK, LANGUAGE}
T5 = {"pad_token_id": PAD, "sentinels": SENTINELS, "eos_token_id": EOS, "special_ids": SPECIAL}
BART = {"pad_token_id": PAD, "mask_token_id": MASK, "special_ids": SPECIAL}


def put_back(inputs: list[int], labels: list[int]) -> list[int]:
    """Read the labels of T5 by their definition, and fill the gaps of the inputs with them."""
    spans: dict[int, list[int]] = {}
    for token in labels:
        if token in SENTINELS:
            span = spans.setdefault(token, [])
        else:
            span.append(token)
    return [word for token in inputs for word in spans.get(token, [token])]


@pytest.mark.parametrize("length", [2, 3, 7, 50, 90])
def test_the_spans_fill_the_gaps(length):
    torch.manual_seed(length)
    row = [LANGUAGE, *range(10, 10 + length), EOS]
    batch = SpanCorruptionCollator(**T5)([{"input_ids": row}])
    inputs, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    assert labels[-1] == EOS
    used = [token for token in labels if token in SENTINELS]
    assert used == list(SENTINELS[: len(used)])
    assert [token for token in inputs if token in SENTINELS] == used[
        :-1
    ]  # the last one ends the labels
    assert put_back(inputs, labels[:-1]) == row
    hidden = max(1, round(0.15 * length))
    assert len(labels) - len(used) - 1 == hidden
    assert len(used) - 1 == max(1, round(hidden / 3))


def test_each_span_is_one_mask_and_labels_are_the_whole_text():
    torch.manual_seed(0)
    row = [LANGUAGE, *range(10, 70), EOS]
    batch = SpanCorruptionCollator(**BART, noise_density=0.3, mean_span_length=2)(
        [{"input_ids": row}]
    )
    assert batch["labels"][0].tolist() == row
    inputs = batch["input_ids"][0].tolist()
    assert inputs.count(MASK) == 9
    kept = [token for token in inputs if token != MASK]
    assert len(kept) == len(row) - 18
    assert kept == [token for token in row if token in kept]  # in order
    assert not any(a == b == MASK for a, b in pairwise(inputs))
    assert (inputs[0], inputs[-1]) == (LANGUAGE, EOS)


def test_every_division_is_as_likely():
    collator = SpanCorruptionCollator(**BART, noise_density=3 / 7, mean_span_length=1.5)
    torch.manual_seed(0)
    counts = Counter(
        tuple(collator([{"input_ids": list(range(10, 17))}])["input_ids"][0].tolist())
        for _ in range(3000)
    )
    assert len(counts) == 3 * 2  # 4 kept in two parts: 3 ways; 3 hidden in two parts: 2 ways
    assert min(counts.values()) > 3000 / 6 - 5 * (3000 / 6 * 5 / 6) ** 0.5
    assert max(counts.values()) < 3000 / 6 + 5 * (3000 / 6 * 5 / 6) ** 0.5


def test_short_rows_are_filled_up():
    batch = SpanCorruptionCollator(**T5)(
        [{"input_ids": [10, 11, 12, EOS]}, {"input_ids": list(range(10, 40))}]
    )
    first = batch["attention_mask"][0].bool()
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert (batch["input_ids"][0][~first] == PAD).all()
    assert batch["attention_mask"][1].all()
    assert (batch["labels"][0][4:] == -100).all()
    assert (batch["labels"][0][:4] != -100).all()


@pytest.mark.parametrize("words", [0, 1])
def test_what_is_too_short_is_left_whole(words):
    batch = SpanCorruptionCollator(**T5)([{"input_ids": [10] * words + [EOS]}])
    assert batch["input_ids"][0].tolist() == [10] * words + [EOS]
    assert batch["labels"][0].tolist() == [SENTINELS[0], EOS]


def test_spans_are_no_more_than_sentinels():
    collator = SpanCorruptionCollator(
        **{**T5, "sentinels": SENTINELS[:3]}, noise_density=0.5, mean_span_length=1
    )
    labels = collator([{"input_ids": list(range(10, 60))}])["labels"][0].tolist()
    assert [token for token in labels if token in SENTINELS] == list(SENTINELS[:3])
    assert len(labels) == 25 + 3 + 1


def test_the_seed_decides():
    rows = [{"input_ids": list(range(10, 60))}]
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(SpanCorruptionCollator(**T5)(rows)["input_ids"].tolist())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pad_token_id": 0}, "0 sentinels and `mask_token_id=None`"),
        (
            {"pad_token_id": 0, "sentinels": (5, 6), "mask_token_id": 4},
            "2 sentinels and `mask_token_id=4`",
        ),
        ({**BART, "noise_density": 1.0}, r"in \(0, 1\).*1.0"),
        ({**BART, "mean_span_length": 0.5}, "at least 1.*0.5"),
    ],
)
def test_what_cannot_be_is_refused(given, said):
    with pytest.raises(ConfigurationError, match=said):
        SpanCorruptionCollator(**given)
