"""Steps that compare a sample with all rows: against two steps, and that nothing else differs."""

from __future__ import annotations

import copy

import pytest
import torch

from hf_meta_adapters import meta_step, next_step
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta.surgery import Surgery
from hf_meta_adapters.steps.compared_meta_step import compared_meta_step
from hf_meta_adapters.steps.compared_next_step import compared_next_step
from tests.training import LANGUAGES, make_model

from .test_meta_step import batches, everything, flat, relative
from .test_next_step import assign

ESTIMATORS = {
    "exact": {"meta_gradient": "exact"},
    "central": {},
    "one-sided": {"finite_difference_scheme": "one_sided"},
}


def compared(model, train, meta, **options):
    return compared_meta_step(model, train, meta, **{"inner_learning_rate": 5.0, **options})


def cosine(one, other):
    return float(torch.cosine_similarity(flat(one.language), flat(other.language), dim=0))


@pytest.mark.parametrize("lookahead", ["per_language", "shared", "none"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("size", [{}, {"indirect_ratio": 1.0}], ids=["as it is", "held"])
def test_is_the_step_with_all_rows_and_its_cosine_to_the_sampled_one(lookahead, estimator, size):
    model = make_model(dtype=torch.float64)
    train, meta = batches(1, count=4, labels=2), batches(2, count=2)
    options = {"lookahead": lookahead, **ESTIMATORS[estimator], **size}
    found, agreement = compared(model, train, meta, mixed_rows=0.5, **options)

    given = {"inner_learning_rate": 5.0, **options}
    whole = meta_step(model, train, meta, **given)
    sampled = meta_step(model, train, meta, mixed_rows=0.5, **given)
    assert relative(everything(found), everything(whole)) < 1e-4
    assert agreement.cosine(None) == pytest.approx(cosine(sampled, whole), rel=1e-4)
    assert agreement.odds == pytest.approx(1.0)
    assert agreement.cosine(None) < 0.999


def test_odds_are_those_of_the_labels():
    model = make_model()
    train = batches(1, count=4, labels=2)
    _, agreement = compared(model, train, train, mixed_rows=0.75)
    assert agreement.odds == pytest.approx(1 / 3)
    train["te"]["labels"][:3] = -100  # te then has no sample
    _, agreement = compared(model, train, train, mixed_rows=0.75)
    assert agreement.odds == pytest.approx(2 / 9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_nothing_but_the_rows_of_the_product_differs(estimator):
    """Without a virtual step there is nothing to differ in, whatever the masks of dropout are."""
    model = make_model(dtype=torch.float64, dropout=0.3).train()
    train, meta = batches(1, count=4), batches(2, count=2)
    given = {"mixed_rows": 0.5, **ESTIMATORS[estimator]}
    _, agreement = compared(model, train, meta, inner_learning_rate=1e-12, **given)
    assert agreement.cosine(None) == pytest.approx(1.0, abs=1e-9)
    _, agreement = compared(model, train, meta, **given)
    assert agreement.cosine(None) < 0.999


def test_the_sampled_gradient_leaves_no_trace():
    """The random numbers and the surgery afterwards are those of one step on all rows."""
    model = make_model(dtype=torch.float64, dropout=0.3).train()
    train, meta = batches(1, count=4), batches(2, count=2)
    surgery = Surgery("pcgrad", gradients="lagged")
    torch.manual_seed(3)
    parts = {key: [{n: t[rows] for n, t in one.items()} for rows in (slice(2), slice(2, 4))]
             for key, one in train.items()}  # fmt: skip
    expected = meta_step(model, parts, meta, inner_learning_rate=5.0)
    draws = torch.rand(3)

    torch.manual_seed(3)
    found, _ = compared(model, train, meta, mixed_rows=0.5, surgery=surgery)
    assert torch.equal(torch.rand(3), draws)
    torch.testing.assert_close(found.language, expected.language)
    assert surgery.state()[1]["steps"] == 1


def test_languages_one_by_one_add_up():
    model = make_model(dtype=torch.float64)
    train, meta = batches(1, count=4), batches(2, count=2)
    given = {"mixed_rows": 0.5, "lookahead": "per_language"}
    _, together = compared(model, train, meta, **given)
    total = None
    for key in LANGUAGES:
        _, one = compared(model, train, meta, for_languages=[key], **given)
        total = one if total is None else total + one
    assert total.cosine(None) == pytest.approx(together.cosine(None), rel=1e-9)


def test_nothing_to_compare_is_no_number():
    model = make_model()
    train = batches(1)
    for one in train.values():
        one["labels"].fill_(-100)
    _, agreement = compared(model, train, train, mixed_rows=0.5)
    assert agreement.cosine(None) != agreement.cosine(None)


def run(model, take, first, second, **options):
    """The second step of a run, and whatever it comes with."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, eps=1e-4)
    found = take(model, first, optimizer=optimizer, **options)
    one = found[0] if isinstance(found, tuple) else found
    assign(model, one)
    optimizer.step()
    optimizer.zero_grad()
    return take(model, second, optimizer=optimizer, kept=one.kept, **options)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_next_step_compares_the_rows_of_the_one_before(estimator):
    model = make_model(dtype=torch.float64)
    several = batches(1, count=4, labels=2), batches(2, count=4, labels=2)
    options = {"indirect_ratio": 2.0, **ESTIMATORS[estimator]}
    given = {"mixed_rows": 0.5, **options}
    found, agreement = run(copy.deepcopy(model), compared_next_step, *several, **given)
    whole = run(copy.deepcopy(model), next_step, *several, **options)
    sampled = run(copy.deepcopy(model), next_step, *several, **given)
    assert relative(everything(found), everything(whole)) < 1e-4
    assert agreement.cosine(None) == pytest.approx(cosine(sampled, whole), rel=1e-4)
    assert agreement.odds == pytest.approx(1.0)
    assert agreement.cosine(None) < 0.99


def test_the_kept_step_has_the_sample_beside_all_rows():
    model = make_model(dtype=torch.float64)
    optimizer = torch.optim.AdamW(model.parameters())
    found, agreement = compared_next_step(
        model, batches(1, count=4), optimizer=optimizer, mixed_rows=0.5
    )
    assert agreement is None
    samples = found.kept.of_samples()
    for key, one in found.kept.passes.items():
        assert (len(one.losses), len(samples.passes[key].losses)) == (2, 1)
        assert (one.scale, samples.passes[key].scale > 1) == (1.0, True)
    assert samples.point is found.kept.point
    assert samples.of_samples() is None


def test_without_an_update_there_is_nothing_to_compare():
    model = make_model(dtype=torch.float64)
    optimizer = torch.optim.AdamW(model.parameters())
    given = {"optimizer": optimizer, "mixed_rows": 0.5}
    first, _ = compared_next_step(model, batches(1, count=4), **given)
    _, agreement = compared_next_step(model, batches(2, count=4), kept=first.kept, **given)
    assert agreement is None


@pytest.mark.parametrize("take", [meta_step, next_step])
def test_a_step_of_ones_own_has_a_number(take):
    model = make_model()
    given = {"inner_learning_rate": 0.1}
    if take is next_step:
        given = {"optimizer": torch.optim.AdamW(model.parameters())}
    roles = [batches(1), batches(2)][: 2 if take is meta_step else 1]
    said = r"Found 'auto'. .*, or let the Trainer choose it .* `MetaAdapterTrainingArguments\("
    with pytest.raises(ConfigurationError, match=said):
        take(model, *roles, mixed_rows="auto", **given)
