from itertools import combinations

import pytest
import torch

from hf_meta_adapters.diagnostics._bootstrap import percentile_interval
from hf_meta_adapters.diagnostics._cosines import (
    estimate_cosines,
    mean_cosines,
    resampled_cosines,
)
from hf_meta_adapters.diagnostics._gradients import BlockProducts


def products(gradients, counts=None):
    """Products of the block sums of some languages, shape (blocks, size) each."""
    rows = torch.cat(list(gradients)).double()
    language = torch.cat([torch.full((len(g),), i) for i, g in enumerate(gradients)])
    counts = torch.ones(len(rows), dtype=torch.float64) if counts is None else counts
    return rows @ rows.T, BlockProducts({}, language, counts)


def test_equals_the_average_over_all_splits_into_halves():
    first, second = torch.randn(2, 6, 4, dtype=torch.float64) + 1
    gram, blocks = products([first, second])
    found = estimate_cosines(gram, blocks, sample_size=3).matrix

    def halves(gradients):
        everything = set(range(6))
        for chosen in combinations(range(6), 3):
            yield (
                gradients[list(chosen)].mean(0),
                gradients[sorted(everything - set(chosen))].mean(0),
            )

    def mean(values):
        return torch.stack(list(values)).mean()

    norm = [mean(a @ a for a, _ in halves(g)) for g in (first, second)]
    within = mean(a @ b for a, b in halves(first)) / norm[0]
    between = (
        mean(a @ b for a, _ in halves(first) for b, _ in halves(second))
        / (norm[0] * norm[1]).sqrt()
    )
    torch.testing.assert_close(found[0, 0], within)
    torch.testing.assert_close(found[0, 1], between)


def test_sums_over_unequal_blocks_estimate_the_same():
    truth = torch.zeros(50, dtype=torch.float64)
    truth[0] = 3.0
    counts = torch.tensor([1, 2, 3, 4] * 50, dtype=torch.float64)
    sums = counts[:, None] * truth + counts.sqrt()[:, None] * torch.randn(
        200, 50, dtype=torch.float64
    )
    gram, blocks = products([sums], counts)
    found = estimate_cosines(gram, blocks, sample_size=5).matrix
    assert float(found[0, 0]) == pytest.approx(9 / (9 + 50 / 5), abs=0.03)


@pytest.mark.parametrize("noise", [0.3, 2.0])
def test_the_bootstrap_covers_the_truth(noise):
    blocks, size, trials = 12, 16, 150
    means = torch.zeros(2, size, dtype=torch.float64)
    means[0, 0], means[1, :2] = 2.0, 2.0**0.5
    variance = noise**2 * size / (blocks // 2)
    truth = (means @ means.T) / (4 + variance)
    hits, width = torch.zeros(2, 2), torch.zeros(2, 2)
    for trial in range(trials):
        drawn = means[:, None] + noise * torch.randn(2, blocks, size, dtype=torch.float64)
        gram, found = products(drawn)
        draws = resampled_cosines(gram, found, blocks // 2, resamples=200, seed=trial)
        assert draws is not None
        interval = percentile_interval(draws, 0.9)
        hits += (interval[..., 0] <= truth) & (truth <= interval[..., 1])
        width += (interval[..., 1] - interval[..., 0]) / trials
    assert (hits / trials).min() >= 0.83  # 0.9 less three standard errors of 150 trials
    assert width.max() < 2 * noise  # and not because it covers everything


def test_no_interval_from_fewer_than_four_blocks():
    gram, blocks = products(torch.randn(2, 3, 4))
    assert resampled_cosines(gram, blocks, 1, resamples=10, seed=0) is None


def test_means_are_taken_apart_and_leave_out_nan():
    nan = float("nan")
    matrix = torch.tensor([[0.5, 0.1, nan], [0.1, 0.7, 0.2], [nan, 0.2, nan]]).expand(2, 3, 3)
    torch.testing.assert_close(mean_cosines(matrix), torch.tensor([[0.15, 0.6]] * 2))
