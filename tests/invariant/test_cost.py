"""What a step costs, counted in passes of the model: times differ between machines, counts do not."""

from __future__ import annotations

import pytest
import torch

from hf_meta_adapters import SparseHead, joint_step, meta_step
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
    """Counts the forward passes of a model and the gradients that are taken, by whether θ is among what they are of."""

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
def test_an_outer_step_takes_these_passes_and_no_more(monkeypatch, setting, forward, of_theta, of_adapters):
    model = make_model(LANGUAGES)
    counter = Counter(model, monkeypatch)
    meta_step(model, batches(1), batches(2), inner_learning_rate=0.01, **setting)
    assert (counter.forward, counter.of_theta, counter.of_adapters) == (forward, of_theta, of_adapters)


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
