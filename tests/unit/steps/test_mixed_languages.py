"""Mixed products of some of the languages: those drawn, L/m times as large, and nothing else."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from contextlib import nullcontext

import pytest
import torch

from hf_meta_adapters import meta_fidelity, meta_step, next_step
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta._mixed_samples import drawn_languages
from hf_meta_adapters.steps.kept_state import KeptState
from hf_meta_adapters.steps.step_context import StepContext
from tests.training import LANGUAGES, make_model

from .test_meta_step import CONFIGS, batches, flat, relative, step
from .test_next_step import assign

LOOKAHEADS = ("per_language", "shared", "none")
REST = ("shared", "direct", "train", "train_loss", "meta_loss")


def unlabeled(batch):
    return {**batch, "labels": torch.full_like(batch["labels"], -100)}


def check(found, whole, count, of=LANGUAGES):
    """The indirect parts of `count` languages are L/m times those of `whole`, the others nothing.

    Returns:
        These languages.
    """
    drawn = [key for key in of if any(part.any() for part in found.indirect[key].values())]
    assert len(drawn) == count
    for key in drawn:
        for name, part in found.indirect[key].items():
            torch.testing.assert_close(part, whole.indirect[key][name] * len(of) / count)
    return drawn


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("lookahead", LOOKAHEADS)
@pytest.mark.parametrize("estimator", ["exact", "finite_difference", "forward_mode"])
def test_indirect_parts_are_those_of_the_languages_drawn(estimator, lookahead, config, count):
    model = make_model(config=CONFIGS[config], dtype=torch.float64).eval()
    given = {"meta_gradient": estimator, "lookahead": lookahead}
    whole = step(model, **given)
    found = step(model, **given, mixed_languages=count / 3, seed=3)
    check(found, whole, count)
    for part in REST:
        torch.testing.assert_close(getattr(found, part), getattr(whole, part))


@pytest.mark.parametrize("order", ["all at once", "one after the other"])
def test_one_step_draws_once(order):
    """As in alternating updates with a look-ahead per language: a call for each language."""
    model = make_model(dtype=torch.float64)
    given = {"lookahead": "per_language", "mixed_languages": 1 / 3}
    with_part = Counter()
    for seed in range(12):
        turns = [None] if order == "all at once" else [[key] for key in LANGUAGES]
        for turn in turns:
            found = step(model, **given, seed=seed, for_languages=turn)
            for key, parts in found.indirect.items():
                with_part[seed, key] += any(part.any() for part in parts.values())
    assert all(sum(with_part[seed, key] for key in LANGUAGES) == 1 for seed in range(12))
    assert {key for (_, key), there in with_part.items() if there} == set(LANGUAGES)


def test_the_mean_over_all_draws_is_the_product_of_all_languages():
    """Every set of languages is as likely as any other, and its parts are L/m times as large."""
    model = make_model(dtype=torch.float64)
    given = {"meta_gradient": "exact", "lookahead": "shared"}
    seed_of = {tuple(drawn_languages(LANGUAGES, 2 / 3, seed)): seed for seed in range(60)}
    assert len(seed_of) == 3

    whole = step(model, **given).indirect
    mean = {key: torch.zeros_like(flat(one)) for key, one in whole.items()}
    for drawn, seed in seed_of.items():
        found = step(model, **given, mixed_languages=2 / 3, seed=seed).indirect
        for key in drawn:
            mean[key] += flat(found[key]) / len(seed_of)
    assert relative(flat(mean), flat({key: flat(one) for key, one in whole.items()})) < 1e-9

    languages = [*"abcde"]
    draws = Counter(tuple(drawn_languages(languages, 0.4, seed)) for seed in range(4000))
    assert set(draws) == set(itertools.combinations(languages, 2))
    assert max(abs(count - 400) for count in draws.values()) < 5 * (4000 * 0.1 * 0.9) ** 0.5


@pytest.mark.parametrize(("share", "counts"), [(0.5, {2, 3}), (0.1, {0, 1}), (0.8, {4})])
def test_a_number_that_is_no_whole_one_is_that_of_the_mean(share, counts):
    several = [drawn_languages([*"abcde"], share, seed) for seed in range(2000)]
    assert {len(drawn) for drawn in several} == counts
    for key in "abcde":
        often = sum(key in drawn for drawn in several)
        assert abs(often - 2000 * share) < 5 * (2000 * share * (1 - share)) ** 0.5


def test_all_languages_and_none():
    assert drawn_languages(["a", "b"], 1.0, 0) == ["a", "b"]
    assert drawn_languages([], 0.5, 0) == []

    model = make_model(dtype=torch.float64)
    seed = next(seed for seed in range(99) if not drawn_languages(LANGUAGES, 0.1, seed))
    for lookahead in LOOKAHEADS:
        found = step(model, mixed_languages=0.1, lookahead=lookahead, seed=seed)
        whole = step(model, lookahead=lookahead)
        check(found, whole, 0)
        for part in REST:
            torch.testing.assert_close(getattr(found, part), getattr(whole, part))

    found, kept = two_steps(model, mixed=0.01)
    assert not kept.passes
    assert not flat(found.indirect).numel()


def test_several_virtual_steps():
    model = make_model(dtype=torch.float64)
    given = {"lookahead": "per_language", "inner_steps": 2, "inner_learning_rate": 0.1}
    whole = step(model, **given)
    check(step(model, **given, mixed_languages=1 / 3), whole, 1)


def test_languages_without_a_label_are_not_drawn():
    model, train, meta = make_model(dtype=torch.float64), batches(1), batches(2)
    absent = LANGUAGES[0]
    train[absent] = unlabeled(train[absent])
    there = [key for key in LANGUAGES if key != absent]
    for seed in range(8):
        given = {"seed": seed, "mixed_languages": 0.5}
        found = step(model, train, meta, **given)
        check(found, step(model, train, meta), 1, of=there)


def two_steps(model, *, mixed=1.0, last=None, **options):
    """The gradients of a step, and what was kept of the step before."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, eps=1e-4)
    first = next_step(
        model, batches(1), optimizer=optimizer, mixed_languages=mixed, seed=4, **options
    )
    assign(model, first)
    optimizer.step()
    kept = first.kept
    found = next_step(model, last or batches(2), optimizer=optimizer, kept=kept, **options)
    return found, kept


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("estimator", ["exact", "finite_difference"])
def test_the_next_step_has_indirect_parts_of_the_languages_drawn_before(estimator, count):
    model = make_model(dtype=torch.float64)
    whole, _ = two_steps(copy.deepcopy(model), meta_gradient=estimator)
    found, kept = two_steps(model, meta_gradient=estimator, mixed=count / 3)
    assert check(found, whole, count) == list(kept.passes)
    for part in REST:
        torch.testing.assert_close(getattr(found, part), getattr(whole, part))


def test_what_is_not_drawn_is_not_kept():
    model = make_model(dtype=torch.float64)
    _, kept = two_steps(copy.deepcopy(model), mixed=1 / 3)
    state = KeptState.of(kept, {key: [one] for key, one in batches(1).items()}, 1.0, 1)
    assert list(state.batches) == list(kept.passes)
    again = state.restored(model, StepContext(None, nullcontext, None, None), 1)
    assert list(again.passes) == list(kept.passes)
    assert again.share == kept.share == 1.0


def test_half_of_the_rows_of_some_languages():
    model = make_model(dtype=torch.float64)
    train, meta = batches(1, count=4), batches(2)
    whole = step(model, train, meta, mixed_rows=0.5)
    found = step(model, train, meta, mixed_rows=0.5, mixed_languages=2 / 3)
    check(found, whole, 2)
    torch.testing.assert_close(found.shared, whole.shared)


def test_fidelity_is_to_the_gradient_of_all_languages():
    model, train, meta = make_model(dtype=torch.float64), batches(1), batches(2)
    given = {"inner_learning_rate": 2.0, "mixed_languages": 1 / 3, "seed": 1}
    exact = {"meta_gradient": "exact", "lookahead": "per_language"}
    found = meta_step(model, train, meta, **given, **exact)
    truth = meta_step(model, train, meta, inner_learning_rate=2.0, **exact)
    expected = torch.cosine_similarity(flat(found.language), flat(truth.language), dim=0)
    assert expected < 0.999
    torch.testing.assert_close(meta_fidelity(model, train, meta, **given, **exact), expected)


@pytest.mark.parametrize("take", ["meta", "next"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mixed_languages": 0.0}, "over 0 and at most 1. Found 0.0"),
        ({"mixed_languages": 2}, "Found 2"),
        ({"mixed_languages": "half"}, "Found 'half'"),
        (
            {"mixed_languages": 0.5, "meta_gradient": "first_order"},
            "which has no mixed product",
        ),
        (
            {
                "mixed_languages": 0.5,
                "indirect_ratio": 1.0,
                "indirect_ratio_scope": "language",
            },
            "which holds the size of each of them",
        ),
        (
            {"mixed_languages": 0.5, "languages_per_pass": 2},
            "Found `mixed_languages=0.5`",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(take, options, said):
    model = make_model()
    given = {}
    if take == "next":
        given = {"optimizer": torch.optim.AdamW(model.parameters())}

    function = {"meta": step, "next": next_step}[take]
    with pytest.raises(ConfigurationError, match=said):
        function(model, batches(1), **given, **options)


def test_the_size_of_all_indirect_parts_together_can_be_held():
    found = step(make_model(), mixed_languages=1 / 3, indirect_ratio=0.5)
    direct, indirect = (flat(part).norm() for part in (found.direct, found.indirect))
    assert float(indirect / direct) == pytest.approx(0.5, rel=1e-4)
