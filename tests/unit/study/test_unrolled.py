"""The second-order part of the unrolled outer step is that of the exact one."""

import torch

from hf_meta_adapters import meta_step
from hf_meta_adapters.study.unrolled import unrolled_step
from tests.tiny import tiny
from tests.training import make_model

RATE = 0.5  # large, so that the second-order part counts


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def direct_part(model, train, meta):
    """1/L Σ_i ∇_φ_l L_l^val(θ'_i, φ_l), with every θ'_i held constant."""
    theta, count = model.shared_parameters(), len(model.languages)
    total = dict.fromkeys(model.languages, 0.0)
    for key in model.languages:
        loss = model(language=key, **train[key]).loss
        gradients = torch.autograd.grad(loss, list(theta.values()), allow_unused=True)
        moved = {
            name: p if g is None else (p - RATE * g).detach()
            for (name, p), g in zip(theta.items(), gradients, strict=True)
        }
        for other in model.languages:
            inputs = {"language": other, **meta[other]}
            loss = torch.func.functional_call(model, moved, kwargs=inputs).loss / count
            phi = list(model.language_parameters(other).values())
            total[other] = total[other] + flat(torch.autograd.grad(loss, phi))
    return torch.cat(list(total.values()))


def test_the_second_order_part_is_that_of_the_exact_step():
    model, cell = make_model().eval(), tiny("bert")
    train = {key: cell.batch(rows=2, length=6) for key in model.languages}
    meta = {key: cell.batch(rows=2, length=6) for key in model.languages}

    unrolled = flat(unrolled_step(model, train, meta, inner_learning_rate=RATE))
    exact = meta_step(model, train, meta, preset="paper", inner_learning_rate=RATE)
    expected = flat([g for key in model.languages for g in exact.indirect[key].values()])

    assert expected.norm() > 1e-4
    torch.testing.assert_close(
        unrolled - direct_part(model, train, meta), expected, rtol=1e-3, atol=1e-6
    )
