"""The look-ahead to the next step on a model: dropout, micro-batches, groups, and bad input."""

from __future__ import annotations

import copy

import pytest
import torch

from hf_meta_adapters import joint_step, next_step
from hf_meta_adapters.errors import ConfigurationError, DataError, LanguageError
from tests.training import LANGUAGES, make_model, snapshot, tensors

from .test_meta_step import CONFIGS, batches, flat, relative

FEW = ["te", "da"]


def assign(model, gradients) -> None:
    for name, parameter in model.shared_parameters().items():
        parameter.grad = gradients.shared.get(name)
    for key in model.languages:
        for name, parameter in model.language_parameters(key).items():
            parameter.grad = gradients.language.get(key, {}).get(name)


def run(model, first=None, then=None, last=None, **options):
    """The gradients of the third step of a run, in which the options `last` hold as well."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, eps=1e-4)
    torch.manual_seed(0)
    kept = None
    for number, one in enumerate([batches(1), first or batches(2), then or batches(3)]):
        if number == 2:
            options = {**options, **(last or {})}
        found = next_step(model, one, optimizer=optimizer, kept=kept, **options)
        if number < 2:
            assign(model, found)
            optimizer.step()
            optimizer.zero_grad()
            kept = found.kept
    return found


def both(options, other, **given):
    """The results of two settings on copies of one model."""
    model = given.pop("model", None) or make_model(dtype=torch.float64)
    return run(copy.deepcopy(model), **given, **options), run(model, **given, **other)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("scheme", ["one_sided", "central"])
def test_finite_differences_under_dropout(config, scheme) -> None:
    """The product draws the masks of the step before: with others it would measure the masks."""
    model = make_model(config=CONFIGS[config], dropout=0.2, dtype=torch.float64).train()
    exact = {"meta_gradient": "exact"}
    found, expected = both({"finite_difference_scheme": scheme}, exact, model=model)
    torch.testing.assert_close(flat(found.shared), flat(expected.shared))
    cosine = torch.cosine_similarity(flat(found.indirect), flat(expected.indirect), dim=0)
    assert cosine >= 0.999
    assert flat(expected.indirect).norm() > 0


def test_shared_gradient_and_direct_part_are_those_of_joint_training() -> None:
    model = make_model(dtype=torch.float64)
    optimizer = torch.optim.AdamW(model.parameters())
    found = next_step(model, batches(1), optimizer=optimizer)
    expected = joint_step(model, batches(1))
    torch.testing.assert_close(found.shared, expected.shared)
    torch.testing.assert_close(found.direct, expected.train)
    torch.testing.assert_close(found.train, expected.train)
    torch.testing.assert_close(found.train_loss, expected.train_loss)
    assert not flat(found.indirect).numel()


def test_leaves_the_model_as_it_was() -> None:
    model = make_model(dropout=0.1).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    first = next_step(model, batches(1), optimizer=optimizer)
    assign(model, first)
    optimizer.step()

    before = snapshot(model)
    state = copy.deepcopy(optimizer.state_dict())
    found = next_step(model, batches(2), optimizer=optimizer, kept=first.kept)
    assert flat(found.indirect).norm() > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(model).items())
    torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)
    assert model.language is None


def test_several_micro_batches_count_by_their_labels() -> None:
    whole = {
        key: {name: torch.cat([one[name]] * 2) for name in one} for key, one in batches(2).items()
    }
    parts = {key: [one, one] for key, one in batches(2).items()}
    model = make_model(dtype=torch.float64)
    exact = {"meta_gradient": "exact"}
    found = run(copy.deepcopy(model), first=parts, then=parts, **exact)
    expected = run(model, first=whole, then=whole, **exact)
    assert relative(flat(found.indirect), flat(expected.indirect)) < 1e-10
    assert relative(flat(found.direct), flat(expected.direct)) < 1e-10


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"meta_gradient": "exact"},
        {"indirect_ratio": 0.7},
        {"indirect_ratio": 0.7, "indirect_ratio_scope": "language"},
        {"max_indirect_ratio": 1e-3},
        {"meta_gradient": "first_order"},
    ],
)
def test_languages_that_share_a_pass(size, options) -> None:
    found, expected = both({**options, "languages_per_pass": size}, options)
    for part in ("shared", "direct", "indirect", "train", "train_loss", "meta_loss"):
        torch.testing.assert_close(
            getattr(found, part), getattr(expected, part), rtol=1e-6, atol=1e-9
        )
    torch.testing.assert_close(found.meter.to_dict(), expected.meter.to_dict())


@pytest.mark.parametrize("size", [1, 2])
def test_steps_on_other_languages(size) -> None:
    """A language of the step before has an indirect part; a new one has none."""
    last = LANGUAGES[1:]
    options = {"meta_gradient": "exact"}
    given = {"first": batches(2, FEW), "then": batches(3, last)}
    found, expected = both({**options, "languages_per_pass": size}, options, **given)
    assert set(found.language) == set(LANGUAGES)
    assert not found.direct["te"]
    assert found.indirect["te"]
    assert found.direct["zh-Hant"]
    assert not found.indirect["zh-Hant"]
    torch.testing.assert_close(found.indirect, expected.indirect, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.direct, expected.direct, rtol=1e-6, atol=1e-9)


def test_a_ratio_for_each_language() -> None:
    found, raw = both(
        {"last": {"indirect_ratio": 0.5, "indirect_ratio_scope": "language"}},
        {},
        meta_gradient="exact",
    )
    for key, meter in found.language_meter.items():
        torch.testing.assert_close(float(meter.ratio), 0.5)
        torch.testing.assert_close(meter.raw_ratio, raw.language_meter[key].ratio)


def test_input_that_cannot_work() -> None:
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(LanguageError, match="Found 'xx'"):
        next_step(model, {"xx": batches(1)["te"]}, optimizer=optimizer)
    with pytest.raises(DataError, match=r"needs a batch. Found none for 'te'"):
        next_step(model, {"te": []}, optimizer=optimizer)
    with pytest.raises(ConfigurationError, match=r"derivative of the step.*Found Adagrad"):
        next_step(model, batches(1), optimizer=torch.optim.Adagrad(model.parameters()))
    with pytest.raises(ConfigurationError, match="must be positive"):
        next_step(model, batches(1), optimizer=optimizer, indirect_ratio=-1.0)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("when", [1, 2])
def test_a_language_without_labels_counts_for_nothing(size, when) -> None:
    """As if it were not in the step; in the next one, it has a part again."""
    model = make_model(dtype=torch.float64)
    without = batches(when + 1)
    without["da"] = {**without["da"], "labels": torch.full_like(without["da"]["labels"], -100)}
    fewer = {key: one for key, one in batches(when + 1).items() if key != "da"}
    name = "first" if when == 1 else "then"
    options = {"meta_gradient": "exact", "languages_per_pass": size}
    found = run(copy.deepcopy(model), **{name: without}, **options)
    expected = run(model, **{name: fewer}, **options)
    for part in ("shared", "language", "train_loss"):
        torch.testing.assert_close(
            getattr(found, part), getattr(expected, part), rtol=1e-6, atol=1e-9
        )
    assert found.without_loss == ({"train": ("da",)} if when == 2 else {})
