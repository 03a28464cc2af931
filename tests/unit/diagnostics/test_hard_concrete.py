import pytest
import torch

from hf_meta_adapters.diagnostics._hard_concrete import (
    deterministic_gates,
    initial_log_alpha,
    keep_probability,
    sample_gates,
    shift_to_density,
)

LOG_ALPHA = torch.tensor([-4.0, -1.0, 0.0, 0.7, 3.0])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_expected_l0_norm_is_the_share_of_open_gates():
    gates = sample_gates(LOG_ALPHA.expand(40_000, -1), generator())
    assert gates.min() == 0
    assert gates.max() == 1
    torch.testing.assert_close(
        (gates != 0).float().mean(0), keep_probability(LOG_ALPHA), atol=0.01, rtol=0
    )
    torch.testing.assert_close(
        (gates == 1).float().mean(0), 1 - keep_probability(-LOG_ALPHA), atol=0.01, rtol=0
    )


def test_gradients_equal_numerical_differentiation():
    log_alpha = LOG_ALPHA.double().requires_grad_()

    def gates(values):
        return sample_gates(values, generator(3))

    (gradient,) = torch.autograd.grad(gates(log_alpha).sum(), log_alpha)
    step = 1e-6
    numerical = (gates(log_alpha + step) - gates(log_alpha - step)) / (2 * step)
    assert (gradient > 0).any()
    torch.testing.assert_close(gradient, numerical.detach(), atol=1e-6, rtol=1e-6)


def test_deterministic_gates_are_shut_half_open_and_open():
    assert deterministic_gates(torch.tensor([-5.0, 0.0, 5.0])).tolist() == [0.0, 0.5, 1.0]


def test_the_initial_keep_rate_is_the_median_of_the_unstretched_gate():
    values = initial_log_alpha((10_000,), 0.8, generator())
    assert float(values.sigmoid().median()) == pytest.approx(0.8, abs=1e-3)
    assert float(values.std()) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("density", [0.05, 0.5, 0.9])
def test_the_shift_meets_the_density_and_keeps_differences(density):
    gates = [torch.randn(300), torch.randn(20)]
    before = [gate.clone() for gate in gates]
    for _ in range(5):  # warm-started, as over training
        shift_to_density(gates, [1, 30], density)
    kept = keep_probability(gates[0]).sum() + 30 * keep_probability(gates[1]).sum()
    assert float(kept / 900) == pytest.approx(density, abs=1e-4)
    torch.testing.assert_close(gates[0] - before[0], (gates[1] - before[1])[0].expand(300))
