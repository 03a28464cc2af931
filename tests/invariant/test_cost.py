"""What a step costs, counted in passes of the model: unlike times, they are alike everywhere."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorMode,
    unset_fake_temporarily,
)

import hf_meta_adapters.meta._gradient
from hf_meta_adapters import RoutedLoss, SparseHead, joint_step, meta_step
from hf_meta_adapters.steps.counted_labels import pass_counts_on
from hf_meta_adapters.steps.losses import model_loss, predicts_the_next_token
from tests.training import CONFUSABLE, make_model, rows

LANGUAGES = CONFUSABLE[:5]
COUNT = len(LANGUAGES)
FAST = {"preset": "fast"}
DRAWN = {**FAST, "lookahead": "per_language", "meta_languages_per_step": 2}
PASSES = [  # the setting, its forward passes, its gradients of θ (and φ), its gradients of φ alone
    (FAST, 3 * COUNT, 2 * COUNT, COUNT),
    ({}, 4 * COUNT, 2 * COUNT, 2 * COUNT),
    (DRAWN, 4 * COUNT, 3 * COUNT, COUNT),
    ({**FAST, "lookahead": "per_language"}, (2 + COUNT) * COUNT, (1 + COUNT) * COUNT, COUNT),
    ({**FAST, "lookahead": "none"}, 3 * COUNT, 2 * COUNT, COUNT),
    ({"preset": "paper"}, (1 + COUNT) * COUNT, (1 + COUNT) * COUNT, COUNT),
    ({"meta_gradient": "exact", "lookahead": "shared"}, 3 * COUNT, 3 * COUNT, COUNT),
    ({"meta_gradient": "first_order", "lookahead": "none"}, 2 * COUNT, COUNT, COUNT),
]


def batches(seed):
    found = {}
    for number, key in enumerate(LANGUAGES):
        several = rows(100 * seed + number, count=4, labels=2)
        found[key] = {name: torch.tensor([row[name] for row in several]) for name in several[0]}
    return found


class Counter:
    """Counts the forward passes of a model and the gradients that are taken, by whether θ is among
    what they are of.
    """

    def __init__(self, model, monkeypatch):
        self.forward = self.of_theta = self.of_adapters = 0
        self._theta = {id(p) for p in model.shared_parameters().values()}
        model.base_model.register_forward_hook(lambda *_: self._count_forward())
        grad = torch.autograd.grad

        def counted(outputs, inputs, *args, **kwargs):
            if any(id(entry) in self._theta for entry in inputs):
                self.of_theta += 1
            else:
                self.of_adapters += 1
            return grad(outputs, inputs, *args, **kwargs)

        monkeypatch.setattr(torch.autograd, "grad", counted)

    def _count_forward(self):
        self.forward += 1


@pytest.mark.parametrize(("setting", "forward", "of_theta", "of_adapters"), PASSES, ids=str)
def test_an_outer_step_takes_these_passes_and_no_more(
    monkeypatch, setting, forward, of_theta, of_adapters
):
    model = make_model(LANGUAGES)
    counter = Counter(model, monkeypatch)
    meta_step(model, batches(1), batches(2), inner_learning_rate=0.01, **setting)
    assert (counter.forward, counter.of_theta, counter.of_adapters) == (
        forward,
        of_theta,
        of_adapters,
    )


def test_joint_training_takes_one_pass_a_language(monkeypatch):
    model = make_model(LANGUAGES)
    counter = Counter(model, monkeypatch)
    joint_step(model, batches(1))
    assert (counter.forward, counter.of_theta, counter.of_adapters) == (COUNT, COUNT, 0)


def test_a_sparse_head_takes_no_pass_of_its_own_after_the_first_batch(monkeypatch):
    model = make_model(LANGUAGES)
    head = SparseHead(model)
    with model.use_language("te"):
        head(model, batches(3)["te"])
    counter = Counter(model, monkeypatch)
    meta_step(model, batches(1), batches(2), inner_learning_rate=0.01, loss_function=head, **FAST)
    assert counter.forward == 3 * COUNT


@pytest.fixture
def without_values(monkeypatch):
    """A model and batches of tensors without values: whoever asks for one, as for a device to wait,
    gets an error.
    """
    mode, made = FakeTensorMode(), {}
    model = make_model(LANGUAGES)
    predicts_the_next_token(model)  # tried out once in a training
    for part in model.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                made.setdefault(parameter, torch.nn.Parameter(mode.from_tensor(parameter.detach())))
                part._parameters[name] = made[parameter]
        part._buffers.update(
            {name: mode.from_tensor(one) for name, one in part._buffers.items() if one is not None}
        )
    train, meta = (
        {
            key: {n: mode.from_tensor(t) for n, t in one.items() if n != "attention_mask"}
            for key, one in given.items()
        }
        for given in (batches(1), batches(2))
    )
    # As in training, labels are counted before they are on the device.
    pass_counts_on({"train": batches(1), "meta": batches(2)}, {"train": train, "meta": meta})
    draw = hf_meta_adapters.meta._gradient.validation_weights

    def drawn(*given):
        with unset_fake_temporarily():  # of languages, which is done on the CPU
            return draw(*given)

    monkeypatch.setattr(hf_meta_adapters.meta._gradient, "validation_weights", drawn)
    with mode:
        try:
            model(language="te", **train["te"])
        except DataDependentOutputException:
            pytest.skip("NOT CHECKED: the model itself waits for the device, in transformers 4")
        yield model, train, meta


@pytest.mark.parametrize(
    "setting",
    [*(setting for setting, *_ in PASSES), {"max_indirect_ratio": 0.1}, {"languages_per_pass": 3}],
    ids=str,
)
def test_an_outer_step_never_waits_for_the_device(without_values, setting):
    model, train, meta = without_values
    loss = RoutedLoss(model)
    loss._checked = True  # which compares values, once in a training
    meta_step(model, train, meta, inner_learning_rate=0.01, loss_function=loss, **setting)


def test_waiting_for_the_device_would_be_noticed(without_values):
    model, train, meta = without_values

    def waits(model, batch):
        loss = model_loss(model, batch)
        return loss * float(loss > 0)

    with pytest.raises(DataDependentOutputException):
        meta_step(model, train, meta, inner_learning_rate=0.01, loss_function=waits)
