import math

import pytest
import torch

from hf_meta_adapters.products.projection import project

SIZE, DIMENSION = 5000, 256
SPIKES = torch.zeros(2, SIZE, dtype=torch.float64)
SPIKES[:, ::DIMENSION] = torch.randn(2, len(range(0, SIZE, DIMENSION)), dtype=torch.float64)
PAIRS = {
    "dense": torch.randn(2, SIZE, dtype=torch.float64),
    "equal": torch.randn(1, SIZE, dtype=torch.float64).expand(2, -1),
    "one column of every row": SPIKES,
    "heavy-tailed": torch.randn(2, SIZE, dtype=torch.float64) ** 5,
}


@pytest.mark.parametrize("name", PAIRS)
def test_products_are_unbiased_and_their_error_is_bounded(name):
    x, y = PAIRS[name]
    scale = x.norm() * y.norm()
    errors = torch.stack(
        [project(x, DIMENSION, seed=s) @ project(y, DIMENSION, seed=s) - x @ y for s in range(300)]
    )
    bound = math.sqrt(2 / DIMENSION) * scale
    assert errors.square().mean().sqrt() <= 1.15 * bound  # 300 draws know a variance to about 15 %
    assert errors.mean().abs() <= 4 * bound / math.sqrt(300)


def test_all_cosines_of_dense_gradients_are_near_at_once():
    languages, confidence = 14, 0.95
    x = torch.randn(languages, 20_000, dtype=torch.float64)
    x = torch.nn.functional.normalize(x + torch.randn(20_000, dtype=torch.float64), dim=1)
    bound = math.sqrt(2 / 1024 * 2 * math.log(2 * languages**2 / (1 - confidence)))
    inside = 0
    for seed in range(20):
        y = torch.stack([project(row, 1024, seed=seed) for row in x])
        inside += bool((torch.corrcoef(y) - x @ x.T).abs().max() <= bound)
    assert inside >= 19


def test_it_is_linear_seeded_and_exact_when_short():
    x, y = PAIRS["dense"]
    torch.testing.assert_close(
        project(2 * x + y, DIMENSION, seed=1),
        2 * project(x, DIMENSION, seed=1) + project(y, DIMENSION, seed=1),
    )
    assert not torch.equal(project(x, DIMENSION, seed=1), project(x, DIMENSION, seed=2))
    short = [project(vector[:200], DIMENSION, seed=1) for vector in (x, y)]
    torch.testing.assert_close(short[0] @ short[1], x[:200] @ y[:200])


def test_sums_of_projections_are_projections_of_the_concatenation():
    x, y = (vector.split([100, 56, 4844]) for vector in PAIRS["dense"])

    def together(parts, seed):
        return sum(project(part, DIMENSION, seed=10 * seed + i) for i, part in enumerate(parts))

    truth = PAIRS["dense"][0] @ PAIRS["dense"][1]
    errors = torch.stack([together(x, seed) @ together(y, seed) - truth for seed in range(300)])
    scale = PAIRS["dense"][0].norm() * PAIRS["dense"][1].norm()
    assert errors.square().mean().sqrt() <= 1.15 * math.sqrt(2 / DIMENSION) * scale


def test_rows_of_several_chunks_are_all_counted(monkeypatch):
    monkeypatch.setattr("hf_meta_adapters.products.projection._CHUNK", 2 * DIMENSION)
    x = PAIRS["dense"][0]
    norms = torch.stack([project(x, DIMENSION, seed=seed).square().sum() for seed in range(100)])
    assert float(norms.mean() / x.square().sum()) == pytest.approx(1, abs=0.05)
