"""The memory that a step needs: one graph and one copy of θ, whatever the number of languages and
of steps.
"""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import TrainerCallback, XLMRobertaConfig, XLMRobertaForMaskedLM

from hf_meta_adapters import BottleneckConfig, get_language_model, joint_step, meta_step
from tests.training import CONFUSABLE, make_model, make_trainer, rows, texts

from .reference import outer_loss

MANY = CONFUSABLE
FEW = MANY[:3]
MORE = len(MANY) - len(FEW)


class Peak(TorchDispatchMode):
    """Counts the bytes of the storages that are made while it is on, and how many were alive at
    once.
    """

    def __init__(self):
        super().__init__()
        self.alive = self.bytes = 0
        self._known = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self._see(value.untyped_storage())
        return result

    def _see(self, storage):
        if storage._cdata in self._known:
            return
        address, size = storage._cdata, storage.nbytes()
        self._known.add(address)
        self.alive += size
        self.bytes = max(self.bytes, self.alive)
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address, size):
        self._known.discard(address)
        self.alive -= size


def batches(seed, languages):
    found = {}
    for number, key in enumerate(languages):
        columns = rows(100 * seed + number, count=8, length=16)
        found[key] = {name: torch.tensor([row[name] for row in columns]) for name in columns[0]}
    return found


def large_model(languages):
    """A model in which θ is large beside φ and the random states that are kept for replays."""
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 128,
    }
    base = XLMRobertaForMaskedLM(
        XLMRobertaConfig(vocab_size=512, max_position_embeddings=32, **sizes)
    )
    return get_language_model(base, BottleneckConfig(bottleneck_size=2), languages)


def size(parameters):
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters.values())


def theta():
    return size(large_model(FEW).shared_parameters())


def allowed():
    """For the languages more: five vectors like φ (direct, indirect, sum, training, one at work)
    and random states.
    """
    states = 2 * torch.get_rng_state().nbytes
    return MORE * (5 * size(large_model(FEW).language_parameters("te")) + states)


def peak(step, languages, setting=None):
    """The peak of a step above what was there before, in bytes."""
    model = large_model(languages)
    given = batches(1, languages), batches(2, languages)
    gc.collect()  # what earlier tests left behind must not be freed, or kept, in between
    with Peak() as found:
        result = step(model, *given, **(setting or {}))
    del result
    return found.bytes


def ours(model, train, meta, **options):
    return meta_step(model, train, meta, inner_learning_rate=0.1, **options)


def joint(model, train, meta):
    return joint_step(model, train)


@sdpa_kernel(SDPBackend.MATH)
def unrolled(model, train, meta):
    """The whole step as one graph, as it is done without the factorisation."""
    values = [
        outer_loss(model, key, train, meta, 0.1, languages=model.languages)
        for key in model.languages
    ]
    own = [p for key in model.languages for p in model.language_parameters(key).values()]
    return torch.autograd.grad(torch.stack(values).mean(), own, allow_unused=True)


SETTINGS = [
    {"meta_gradient": estimator, "lookahead": lookahead}
    for estimator in ("exact", "finite_difference", "forward_mode", "first_order")
    for lookahead in ("per_language", "shared")
]
OTHERS = [
    {"lookahead": "none"},
    {"preset": "fast"},
    {"meta_languages": "others", "lookahead": "shared"},
    {"meta_languages": "others", "lookahead": "per_language", "meta_gradient": "exact"},
]


@pytest.mark.parametrize("setting", SETTINGS + OTHERS, ids=str)
def test_the_peak_of_a_step_does_not_grow_with_the_languages(setting):
    few, many = (peak(ours, languages, setting) for languages in (FEW, MANY))
    assert few > 3 * theta()  # something was measured: a copy of θ, two gradients, a graph
    assert many - few < allowed() < theta()


def test_joint_training_does_not_grow_either():
    assert peak(joint, MANY) - peak(joint, FEW) < allowed() < theta()


def test_the_measure_sees_a_step_that_grows():
    assert peak(unrolled, MANY) - peak(unrolled, FEW) > MORE * theta()


class Alive(TrainerCallback):
    """The bytes of all tensors after each step, with the garbage collector off: what only it could
    free counts.
    """

    def __init__(self):
        self.bytes = []

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 1:
            gc.collect()
            gc.disable()
        storages = {}
        for thing in gc.get_objects():
            if isinstance(thing, torch.Tensor):
                storages[thing.untyped_storage()._cdata] = thing.untyped_storage().nbytes()
        self.bytes.append(sum(storages.values()))


@pytest.mark.parametrize(
    ("method", "logging"),
    [({}, "no"), ({"preset": "paper"}, "no"), ({"adapter_update": "train"}, "steps")],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*reduce_op.*:FutureWarning")  # of objects that are looked at
def test_nothing_is_left_behind_by_a_step(tmp_path, method, logging):
    alive = Alive()
    try:
        model = make_model()
        data = {
            f"{role}_dataset": texts(seed, labels=3) for seed, role in enumerate(("train", "meta"))
        }  # equal sizes
        trainer = make_trainer(
            tmp_path,
            model,
            max_steps=7,
            callbacks=[alive],
            logging_strategy=logging,
            **data,
            **method,
        )
        trainer.training_step = (
            type(trainer).__bases__[0].training_step.__get__(trainer)
        )  # without the record
        trainer.train()
    finally:
        gc.enable()
    assert len(alive.bytes) == 7
    assert len(set(alive.bytes[2:])) == 1
