"""The share of the rows that is chosen: by hand, against random rows, and in and out of states."""

from __future__ import annotations

import json
import math

import pytest
import torch

from hf_meta_adapters.meta.sample_share import SHARES, TARGET, SampleShare


def observed(*cosines, odds=None):
    """A choice after measurements, each of the candidate of the time."""
    choice = SampleShare()
    for cosine in cosines:
        choice.observe(cosine, 1 / choice.candidate - 1 if odds is None else odds)
    return choice


def test_all_rows_until_something_is_measured():
    choice = SampleShare()
    assert (choice.share, choice.candidate) == (1.0, 0.75)
    assert {choice.predicted(share) for share in SHARES} == {1.0}
    for cosine, odds in ((math.nan, 1.0), (math.inf, 1.0), (0.9, math.nan)):
        choice.observe(cosine, odds)
    assert (choice.share, choice.candidate, choice.state()["count"]) == (1.0, 0.75, 0)


def test_a_sample_of_all_rows_says_to_try_a_smaller_one():
    """As three quarters of two rows, or of three."""
    choice = SampleShare()
    choice.observe(1.0, odds=0.0)
    assert (choice.share, choice.candidate) == (1.0, 0.5)
    choice.observe(0.99999, odds=1.0)
    assert (choice.share, choice.candidate) == (0.5, 0.5)
    choice.observe(0.99999, odds=1.0)
    assert choice.share == 0.25
    choice.observe(0.9, odds=3.0)
    choice.observe(0.9, odds=1.0)
    assert (choice.share, choice.candidate) == (1.0, 0.5)

    choice = SampleShare()  # of one row
    for _ in range(9):
        choice.observe(1.0, odds=0.0)
    assert (choice.share, choice.candidate) == (1.0, 0.125)


def test_predictions_by_hand():
    # tan² = 1/0.8² − 1 = 0.5625 with half of the rows, for which N/n − 1 = 1
    choice = observed(0.8, odds=1.0)
    expected = {1.0: 1.0, 0.75: 0.91766, 0.5: 0.8, 0.25: 0.60999, 0.125: 0.45004}
    assert {share: round(choice.predicted(share), 5) for share in SHARES} == expected
    assert choice.share == 1.0


def test_the_share_falls_one_step_at_a_time_as_far_as_it_may():
    # 1/0.97² − 1 = 0.0628: with odds of 1/3, the noise may be 0.188; of 1, 0.0628; of 3, 0.0209
    for cosine, expected in ((0.9995, 0.125), (0.998, 0.25), (0.991, 0.5), (0.975, 0.75)):
        assert observed(*4 * [cosine], odds=1 / 3).share == expected
    falling = [observed(*count * [0.99999]).share for count in range(6)]
    assert falling == [1.0, 0.75, 0.5, 0.25, 0.125, 0.125]


def test_one_bad_measurement_raises_the_share_at_once():
    choice = observed(*5 * [0.99999])
    assert choice.share == 0.125
    choice.observe(0.949, odds=7.0)  # the mean still says that an eighth is enough
    assert choice.predicted(0.125) >= 0.97
    assert choice.share == 0.25

    choice.observe(0.3, odds=3.0)  # counts as 0.5: the noise is now about 1/5 of 3 / 3
    assert choice.share == 1.0
    assert 0.19 < choice.state()["noise"] < 0.21


def test_what_falls_short_with_all_rows_stays():
    assert observed(0.9, 0.9, 0.9).share == 1.0


def test_the_running_mean_forgets():
    choice = observed(0.8, *20 * [0.999], odds=1.0)
    # after five measurements the old one has a fifth, and four fifths of that with each new one
    old, new = 1 / 0.8**2 - 1, 1 / 0.999**2 - 1
    rest = 0.2 * 0.8**16
    assert choice.state()["noise"] == pytest.approx(rest * old + (1 - rest) * new)


@pytest.mark.parametrize("rows", [8, 16, 32])
def test_predictions_hold_for_random_rows(rows):
    """Rows with a common part and noise: from angles at one share to the mean cosine at others."""
    draw = torch.Generator().manual_seed(rows)
    each = torch.randn(rows, 400, generator=draw, dtype=torch.float64)
    each = each + 2 * torch.randn(400, generator=draw, dtype=torch.float64) / rows**0.5
    direct = 0.3 * torch.randn(400, generator=draw, dtype=torch.float64)
    whole = direct + each.mean(0)

    def cosine(share):
        chosen = torch.randperm(rows, generator=draw)[: math.ceil(share * rows)]
        sampled = direct + each[chosen].mean(0)
        return float(torch.cosine_similarity(sampled, whole, dim=0))

    for measured in (0.75, 0.5, 0.25):
        choice = SampleShare()
        for _ in range(5):
            choice.observe(cosine(measured), 1 / measured - 1)
        for share in SHARES:
            true = sum(cosine(share) for _ in range(200)) / 200
            assert choice.predicted(share) == pytest.approx(true, abs=0.025)


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2, 1.0])
def test_the_chosen_share_keeps_the_cosine(noise):
    """In most steps, and in the mean, wherever the least share ends up."""
    rows, draw = 16, torch.Generator().manual_seed(7)
    truth = torch.nn.functional.normalize(torch.randn(300, generator=draw), dim=0)

    def cosine(share):
        each = truth + (noise * rows / 300) ** 0.5 * torch.randn(rows, 300, generator=draw)
        return float(torch.cosine_similarity(each[: int(share * rows)].mean(0), each.mean(0), 0))

    choice, used = SampleShare(), []
    for step in range(400):
        if step % 10 == 0:
            choice.observe(cosine(choice.candidate), 1 / choice.candidate - 1)
        used.append(cosine(choice.share))

    settled = used[100:]
    assert sum(one >= TARGET for one in settled) >= 0.97 * len(settled)
    assert choice.share < 1 or noise == 1.0


def test_a_state_goes_through_json():
    one, other = observed(0.9, 0.99, 0.97, 0.995), SampleShare()
    other.load_state(json.loads(json.dumps(one.state())))
    for choice in (one, other):
        choice.observe(0.98123456789, 1.0)
    assert one.state() == other.state()


@pytest.mark.parametrize(
    "state",
    [
        {"share": 0.3, "noise": 0.0, "count": 0, "whole": 0},
        {"share": 0.5, "noise": math.nan, "count": 1, "whole": 0},
        {"share": 0.5, "noise": 0.1, "count": 9, "whole": 0},
        {"share": 0.5, "noise": 0.1, "count": 1, "whole": 5},
        {"share": 0.5, "noise": 0.1},
    ],
)
def test_another_state_is_refused(state):
    with pytest.raises((ValueError, KeyError)):
        SampleShare().load_state(state)
