"""A parameter without a state gets the one with which its first step would begin."""

import warnings
from functools import partial

import pytest
import torch
from torch.optim import SGD, Adam, AdamW, RAdam

from hf_meta_adapters.training._first_states import add_first_states

OPTIMIZERS = {
    "Adam": Adam,
    "AdamW": partial(AdamW, weight_decay=0.1),
    "AMSGrad": partial(Adam, amsgrad=True),
    "fused": partial(AdamW, fused=True),
    "one by one": partial(AdamW, foreach=False),
}


def make(kind):
    torch.manual_seed(0)
    seen, unseen = torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(4))
    number = torch.nn.Parameter(torch.tensor(1.0))
    return [seen, unseen, number], kind([{"params": [seen]}, {"params": [unseen, number]}], lr=0.1)


def step(parameters, optimizer, given):
    for number, parameter in enumerate(parameters):
        parameter.grad = None
        if number in given:
            parameter.grad = torch.full_like(parameter, 0.5 + number)
    optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_what_follows_is_what_would_have_followed(kind):
    expected, plain = make(kind)
    parameters, optimizer = make(kind)

    for given in ([0], [0], [1], [0, 1, 2]):
        step(expected, plain, given)
        step(parameters, optimizer, given)
        add_first_states(optimizer)
        assert {len(state) for state in optimizer.state.values()} == {len(plain.state[expected[0]])}
        assert len(optimizer.state) == 3

    for one, other in zip(expected, parameters, strict=True):
        assert torch.equal(one, other)
        for name, entry in plain.state[one].items():
            assert torch.equal(entry, optimizer.state[other][name])


def test_before_the_first_step_there_is_nothing_to_add():
    _, optimizer = make(AdamW)
    add_first_states(optimizer)
    assert not optimizer.state


@pytest.mark.parametrize("kind", [partial(SGD, momentum=0.9), RAdam])
def test_of_another_optimizer_it_is_said(kind):
    parameters, optimizer = make(kind)
    step(parameters, optimizer, [0])
    with pytest.warns(UserWarning, match=r"of 2 of 3: .*adamw_torch"):
        add_first_states(optimizer)
    assert len(optimizer.state) == 1

    step(parameters, optimizer, [0, 1, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        add_first_states(optimizer)
