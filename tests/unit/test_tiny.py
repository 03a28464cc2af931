"""The bank of tiny models keeps what it promises to the tests that stand on it."""

import pytest
import torch

from tests.tiny import MODELS, PRETRAINING, TinyModel, in_double, tiny


@pytest.mark.parametrize("cell", MODELS, ids=str)
def test_the_loss_reaches_every_parameter(cell: TinyModel) -> None:
    model = cell.make()
    model(**cell.batch()).loss.backward()
    trained = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert [name for name, gradient in trained.items() if gradient is None] == []
    # A shift of all scores of a softmax changes nothing: such a gradient vanishes, up to rounding.
    shifts = (
        "qa_outputs.bias",
        "k_proj.bias",
        "key.bias",
        "key_proj.bias",
        "k_lin.bias",
        "c_attn.bias",
    )
    assert [
        name
        for name, gradient in trained.items()
        if not gradient.any() and not name.endswith(shifts)
    ] == []


@pytest.mark.parametrize("cell", PRETRAINING, ids=str)
def test_models_and_batches_follow_from_their_seeds(cell: TinyModel) -> None:
    first, again, other = (cell.make(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    one, same, else_ = (cell.batch(seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], else_[name]) for name in one)


@pytest.mark.parametrize("cell", PRETRAINING, ids=str)
def test_in_double_makes_a_float64_model_exact(cell: TinyModel) -> None:
    """Central differences of the loss agree with its gradient to more digits than float32 has."""
    model, batch = cell.make(torch.float64), cell.batch(dtype=torch.float64)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with in_double():
        gradients = torch.autograd.grad(model(**batch).loss, parameters)
        direction = [
            gradient / torch.stack([g.norm() for g in gradients]).norm() for gradient in gradients
        ]
        losses = []
        with torch.no_grad():
            for sign in (1, -2):
                for parameter, step in zip(parameters, direction, strict=True):
                    parameter.add_(step, alpha=sign * 1e-5)
                losses.append(model(**batch).loss)
    slope = (losses[0] - losses[1]) / 2e-5
    expected = sum(
        (gradient * step).sum() for gradient, step in zip(gradients, direction, strict=True)
    )
    assert losses[0].dtype == torch.float64
    torch.testing.assert_close(slope, expected, rtol=1e-7, atol=0)


def test_the_last_of_several_rows_is_padded() -> None:
    batch = tiny("bert").batch(rows=3, length=8)
    assert batch["attention_mask"].sum(1).tolist() == [8, 8, 6]
    assert (batch["labels"][2, -2:] == -100).all()
    assert tiny("bert").batch(rows=1)["attention_mask"].all()
