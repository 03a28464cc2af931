"""The start by Reptile: a loop of one's own in float64, and what stays as it is."""

from __future__ import annotations

import pytest
import torch

from hf_meta_adapters.errors import (
    ConfigurationError,
    DataError,
    LanguageError,
    NonFiniteLossError,
)
from hf_meta_adapters.training.reptile_start import REPTILE_START, add_reptile_start
from tests.adapted import adapted, stirred
from tests.tiny import tiny

BATCHES = {
    "en": [tiny("bert").batch(seed) for seed in range(2)],
    "sw": [tiny("bert").batch(seed) for seed in range(2, 5)],
}


def family():
    """The same model every time, in evaluation mode, without dropout."""
    torch.manual_seed(0)
    return stirred(adapted("bert", languages=["en", "sw"], dtype=torch.float64), 0.3).eval()


def by_hand(model, order, rounds, steps, rate, outer):
    """Adam without momentum and the outer update, written out."""
    tensors = model.language_parameters("x-by-hand")
    start = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    taken = dict.fromkeys(BATCHES, 0)
    losses = []
    for number, language in enumerate(order):
        now = {name: tensor.clone() for name, tensor in start.items()}
        squares = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
        total = 0.0
        for step in range(1, steps + 1):
            batch = BATCHES[language][taken[language] % len(BATCHES[language])]
            taken[language] += 1
            with torch.no_grad():
                for name, tensor in tensors.items():
                    tensor.copy_(now[name])
            loss = model(language="x-by-hand", **batch).loss
            gradients = torch.autograd.grad(loss, list(tensors.values()))
            for name, gradient in zip(tensors, gradients, strict=True):
                squares[name] = 0.999 * squares[name] + 0.001 * gradient**2
                scale = (squares[name] / (1 - 0.999**step)).sqrt() + 1e-8
                now[name] = now[name] - rate * gradient / scale
            total += float(loss.detach())
        losses.append(total / steps)
        share = outer * (1 - number / rounds)
        start = {name: (1 - share) * start[name] + share * now[name] for name in start}
    return start, losses


def test_it_is_reptile():
    model = family()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen = []

    def loss(model, batch):
        seen.append(next(key for key in BATCHES for one in BATCHES[key] if same(one, batch)))
        return model(**batch).loss

    def same(one, other):
        return torch.equal(one["input_ids"], other["input_ids"])

    model.add_language("x-by-hand", copy_from="mean")
    losses = add_reptile_start(
        model,
        BATCHES,
        copy_from="x-by-hand",
        rounds=5,
        inner_steps=3,
        inner_learning_rate=0.01,
        outer_rate=0.7,
        loss_function=loss,
    )

    # Each language as often as the other, up to one, and k steps on one after another.
    order = seen[::3]
    assert seen == [key for key in order for _ in range(3)]
    assert abs(order.count("en") - order.count("sw")) == 1
    expected, own_losses = by_hand(model, order, 5, 3, 0.01, 0.7)
    found = model.language_parameters(REPTILE_START)
    for (name, tensor), own in zip(found.items(), expected.values(), strict=True):
        torch.testing.assert_close(tensor.detach(), own, rtol=1e-6, atol=1e-9, msg=name)
    assert losses == pytest.approx(own_losses)

    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training


def test_the_start_is_a_function_of_the_seed_and_is_saved_with_the_family(tmp_path):
    found = []
    for seed in (0, 0, 1):
        model = family()
        torch.rand(3)  # whatever was drawn before
        state = torch.get_rng_state()
        add_reptile_start(model, BATCHES, rounds=3, inner_steps=1, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        found.append([one.detach() for one in model.language_parameters(REPTILE_START).values()])
    assert all(map(torch.equal, found[0], found[1]))
    assert not all(map(torch.equal, found[0], found[2]))

    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, auto_class=type(model.base_model))
    again.add_language("yo", copy_from=REPTILE_START)
    copied = again.language_parameters("yo").values()
    assert all(torch.equal(one, own.to(one)) for one, own in zip(copied, found[2], strict=True))


def test_steps_lead_down_from_the_start():
    """On the texts that it was made for, one step lowers the loss more than from the mean."""
    model = family()
    model.add_language("plain", copy_from="mean")
    losses = add_reptile_start(
        model, BATCHES, copy_from="mean", rounds=60, inner_steps=3, inner_learning_rate=0.01
    )
    assert sum(losses[-10:]) < sum(losses[:10])

    after = {}
    for start in ("plain", REPTILE_START):
        with model.use_language(start), torch.no_grad():
            after[start] = sum(
                float(model(**batch).loss) for batches in BATCHES.values() for batch in batches
            )
    assert after[REPTILE_START] < after["plain"]


def test_batches_without_a_label_are_passed_over():
    empty = {**BATCHES["en"][0], "labels": torch.full_like(BATCHES["en"][0]["labels"], -100)}
    model = family()
    losses = add_reptile_start(model, {"en": [empty, BATCHES["en"][1]]}, rounds=2, inner_steps=2)
    assert all(loss == loss for loss in losses)
    with pytest.raises(DataError, match="Batches with labels"):
        add_reptile_start(model, {"en": [empty]}, language="x-other", rounds=1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rounds": 0}, ConfigurationError, r"\{'rounds': 0\}"),
        ({"outer_rate": float("nan")}, ConfigurationError, "outer_rate"),
        ({"language": "sw"}, LanguageError, "sw"),
        ({"batches": {}}, DataError, "needs text"),
        ({"batches": {"fr": BATCHES["en"]}}, LanguageError, "fr"),
        ({"batches": {"en": iter(BATCHES["en"])}}, DataError, "a generator can be read once"),
        ({"loss_function": lambda *_: torch.tensor(float("inf"))}, NonFiniteLossError, "inf"),
    ],
)
def test_what_cannot_work_is_refused(change, error, message):
    options, model = {"batches": BATCHES, "rounds": 2, **change}, family()
    with pytest.raises(error, match=message):
        add_reptile_start(model, **options)
    assert model.languages == ("en", "sw")  # nothing half trained is left


def test_languages_need_adapters():
    with pytest.raises(ConfigurationError, match="none of their own"):
        add_reptile_start(adapted("bert", None, ["en", "sw"]), BATCHES)
