import random
from itertools import pairwise

import pytest

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation._windows import length_limit, special_tokens_around, windows

from .conftest import train_tokenizer


def test_every_item_belongs_to_one_window_that_shows_it_and_fits():
    draw = random.Random(0)
    for _ in range(500):
        sizes = [draw.randint(0, 4) for _ in range(draw.randint(0, 25))]
        room, overlap = draw.randint(3, 10), draw.randint(0, 6)
        cut = windows(sizes, room, overlap)
        assert [item for _, owned in cut for item in owned] == list(range(len(sizes)))
        for shown, owned in cut:
            assert set(owned) <= set(shown)
            assert (
                sum(sizes[item] for item in shown) <= room
                or len([i for i in shown if sizes[i]]) == 1
            )
        for (left, _), (right, _) in pairwise(cut):
            assert sum(sizes[item] for item in set(left) & set(right)) <= overlap


def test_an_item_is_owned_where_more_is_seen_around_it():
    (first, owned), (second, rest) = windows([1] * 16, room=10, overlap=4)
    assert (first, second) == (range(10), range(6, 16))
    assert (owned, rest) == (range(8), range(8, 16))


def test_an_item_larger_than_a_window_stands_alone():
    assert windows([2, 9, 1], room=4) == [(range(1),) * 2, (range(1, 2),) * 2, (range(2, 3),) * 2]


def test_special_tokens_around(tokenizer):
    assert special_tokens_around(tokenizer, "Newton") == ([0], [2])
    bare = train_tokenizer("unigram", ["a b"], size=20, around=False)
    assert special_tokens_around(bare, "a b") == ([], [])


def test_length_limit(unigram):
    assert length_limit(unigram, 20) == 20
    assert length_limit(unigram, None) == 512  # the tokenizer has no limit of its own
    with pytest.raises(ConfigurationError, match=r"Found 3\. Use for example 128"):
        length_limit(unigram, 3)
