import numpy as np
import pytest

from hf_meta_adapters.evaluation._characters_per_token import (
    characters_by_decoding,
    characters_by_offsets,
)


@pytest.mark.parametrize(
    ("length", "offsets", "expected"),
    [
        (5, [(0, 2), (3, 5)], [2, 3]),  # the space belongs to the token after it
        (6, [(0, 2), (3, 5)], [2, 4]),  # what is left at the end, to the last
        (6, [(1, 3), (3, 6)], [3, 3]),  # what precedes the first token, to the first
        (2, [(0, 1), (0, 1), (0, 1), (1, 2)], [1 / 3, 1 / 3, 1 / 3, 1]),  # the bytes of one letter
        (3, [(0, 0), (0, 3)], [0, 3]),  # a token that stands for nothing
        (3, [(0, 2), (1, 3)], [1.5, 1.5]),
        (4, [(0, 1), (0, 0), (3, 4)], [1, 0, 3]),  # offsets of an inserted token may go back to 0
        (3, [], []),
        (0, [(0, 0)], [0]),
    ],
)
def test_shares_by_offsets(length, offsets, expected):
    np.testing.assert_allclose(characters_by_offsets(length, offsets), expected)


def test_shares_sum_to_the_text_for_random_offsets():
    random = np.random.default_rng(0)
    for _ in range(200):
        length = int(random.integers(1, 12))
        starts = np.sort(random.integers(0, length + 1, size=random.integers(1, 8)))
        offsets = [(int(s), int(min(length, s + random.integers(0, 4)))) for s in starts]
        shares = characters_by_offsets(length, offsets)
        assert shares.sum() == pytest.approx(length)
        assert (shares >= 0).all()


def test_shares_by_decoding_are_proportional_and_sum_to_the_text():
    np.testing.assert_allclose(characters_by_decoding(8, ["abc", "d", ""]), [4.8, 1.6, 1.6])
    assert characters_by_decoding(3, []).sum() == 0
