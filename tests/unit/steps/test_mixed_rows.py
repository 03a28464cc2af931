"""The mixed product of a sample of the rows: against autograd on that sample, and without bias."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_meta_adapters import meta_fidelity, meta_step, next_step
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta import meta_gradient
from hf_meta_adapters.steps import _common_losses
from tests.training import LANGUAGES, make_model

from .test_meta_step import CONFIGS, batches, everything, flat, relative, step
from .test_next_step import run

EXACT = ("exact", "forward_mode")
RATE = 0.5


def first_rows(several, count):
    return {key: {n: t[:count] for n, t in one.items()} for key, one in several.items()}


def by_autograd(model, train, sample, meta):
    """−β ∇φ⟨∇θ L_S, v⟩ of each language, v at the θ' of the mean training gradient of all rows."""
    shared = model.shared_parameters()
    start = {name: parameter.detach().clone() for name, parameter in shared.items()}

    def mean_gradient(given):
        losses = [model(language=key, **one).loss for key, one in given.items()]
        slopes = torch.autograd.grad(torch.stack(losses).mean(), list(shared.values()))
        return dict(zip(shared, slopes, strict=True))

    slopes = mean_gradient(train)
    with torch.no_grad():
        for name, parameter in shared.items():
            parameter -= RATE * slopes[name]
    v = mean_gradient(meta)
    with torch.no_grad():
        for name, parameter in shared.items():
            parameter.copy_(start[name])

    found = {}
    for key, one in sample.items():
        loss = model(language=key, **one).loss
        slopes = torch.autograd.grad(loss, list(shared.values()), create_graph=True)
        product = sum((s * v[n]).sum() for n, s in zip(shared, slopes, strict=True))
        phi = model.language_parameters(key)
        rows = torch.autograd.grad(product, list(phi.values()), allow_unused=True)
        found[key] = {
            n: -RATE * r for n, r in zip(phi, rows, strict=True) if r is not None and r.any()
        }
    return found


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("estimator", EXACT)
def test_is_the_product_of_the_sample_by_autograd(config, estimator):
    model = make_model(config=CONFIGS[config], dtype=torch.float64).eval()
    train, meta = batches(1, count=4), batches(2, count=2)
    found = step(model, train, meta, meta_gradient=estimator, lookahead="shared", mixed_rows=0.5)
    with sdpa_kernel(SDPBackend.MATH):
        expected = by_autograd(model, train, first_rows(train, 2), meta)
    found_parts = {
        key: {name: part for name, part in one.items() if part.any()}
        for key, one in found.indirect.items()
    }
    assert {key: set(one) for key, one in found_parts.items()} == {
        key: set(one) for key, one in expected.items()
    }
    assert relative(flat(found_parts), flat(expected)) < 1e-9
    assert flat(expected).norm() > 0


@pytest.mark.parametrize("scheme", ["central", "one_sided"])
@pytest.mark.parametrize("lookahead", ["per_language", "shared", "none"])
def test_finite_differences_are_of_the_sample(scheme, lookahead):
    model = make_model(dtype=torch.float64, dropout=0.2).train()
    train, meta = batches(1, count=4), batches(2, count=2)
    options = {"lookahead": lookahead, "mixed_rows": 0.5, "finite_difference_radius": 1e-4}
    torch.manual_seed(1)
    expected = step(model, train, meta, meta_gradient="exact", **options)
    torch.manual_seed(1)
    found = step(model, train, meta, finite_difference_scheme=scheme, **options)
    assert relative(flat(found.indirect), flat(expected.indirect)) < 1e-3


def test_everything_but_the_indirect_part_is_that_of_all_rows():
    model = make_model(dtype=torch.float64)
    train, meta = batches(1, count=4), batches(2, count=2)
    sampled = step(model, train, meta, mixed_rows=0.25)
    whole = step(model, train, meta)
    for part in ("shared", "direct", "train", "train_loss", "meta_loss"):
        torch.testing.assert_close(getattr(sampled, part), getattr(whole, part))
    assert relative(flat(sampled.indirect), flat(whole.indirect)) > 0.1


@pytest.mark.parametrize("estimator", EXACT)
def test_the_mean_over_all_samples_is_the_product_of_all_rows(estimator):
    model = make_model(dtype=torch.float64)
    train, meta = batches(1, count=4, labels=2), batches(2, count=2)
    whole = step(model, train, meta, meta_gradient=estimator)

    found = []
    for chosen in itertools.combinations(range(4), 2):
        order = [*chosen, *(row for row in range(4) if row not in chosen)]
        ordered = {key: {n: t[order] for n, t in one.items()} for key, one in train.items()}
        sampled = step(model, ordered, meta, meta_gradient=estimator, mixed_rows=0.5)
        found.append(flat(sampled.indirect))
        assert relative(found[-1], flat(whole.indirect)) > 0.01
    assert relative(torch.stack(found).mean(0), flat(whole.indirect)) < 1e-9


@pytest.mark.parametrize("estimator", [*EXACT, "finite_difference"])
def test_micro_batches_are_sampled_one_by_one(estimator):
    """Samples of unequal numbers of labels count by their labels, as whole micro-batches do."""
    model = make_model(dtype=torch.float64)
    meta = batches(2, count=2)
    parts = [batches(1, count=2), batches(4, count=4)]
    options = {"meta_gradient": estimator, "mixed_rows": 0.5, "finite_difference_radius": 1e-4}
    found = step(model, {key: [part[key] for part in parts] for key in LANGUAGES}, meta, **options)

    together = {}
    for key in LANGUAGES:
        chosen = [parts[0][key], parts[1][key]]
        rows = [(0, 0), (1, 0), (1, 1), (0, 1), (1, 2), (1, 3)]
        together[key] = {
            name: torch.stack([chosen[part][name][row] for part, row in rows]) for name in chosen[0]
        }
    expected = step(model, together, meta, **options)
    assert relative(everything(found), everything(expected)) < 1e-6


def test_a_sample_without_labels_is_no_sample():
    model = make_model(dtype=torch.float64)
    train, meta = batches(1, count=4), batches(2, count=2)
    train["da"]["labels"][:2] = -100
    sampled = step(model, train, meta, mixed_rows=0.5)
    whole = step(model, train, meta)
    torch.testing.assert_close(sampled.indirect["da"], whole.indirect["da"])
    assert relative(flat(sampled.indirect["te"]), flat(whole.indirect["te"])) > 0.01


def test_a_batch_of_one_row_stays_whole():
    model = make_model(dtype=torch.float64)
    train = {**batches(1, count=1)}
    torch.testing.assert_close(
        step(model, train, mixed_rows=0.1).indirect, step(model, train).indirect
    )


def test_fidelity_compares_with_all_rows():
    model = make_model(dtype=torch.float64)
    train, meta = batches(1, count=4), batches(2, count=2)
    setting = {"meta_gradient": "exact", "lookahead": "per_language", "inner_learning_rate": 5.0}
    assert float(meta_fidelity(model, train, meta, **setting)) == pytest.approx(1.0)

    found = meta_step(model, train, meta, **setting, mixed_rows=0.25)
    whole = meta_step(model, train, meta, **setting)
    expected = torch.cosine_similarity(flat(found.language), flat(whole.language), dim=0)
    measured = meta_fidelity(model, train, meta, **setting, mixed_rows=0.25)
    assert float(measured) == pytest.approx(float(expected), rel=1e-9)
    assert float(expected) < 0.999


@pytest.mark.parametrize("scheme", ["central", "one_sided"])
def test_the_next_step_takes_the_product_of_the_sample(scheme):
    model = make_model(dtype=torch.float64, dropout=0.1).train()
    given = {name: batches(seed, count=4) for seed, name in ((2, "first"), (3, "then"))}
    options = {"mixed_rows": 0.5, "finite_difference_radius": 1e-4}
    expected = run(copy.deepcopy(model), **given, meta_gradient="exact", **options)
    found = run(copy.deepcopy(model), **given, finite_difference_scheme=scheme, **options)
    assert relative(flat(found.indirect), flat(expected.indirect)) < 1e-3
    assert relative(flat(found.direct), flat(expected.direct)) < 1e-5


def test_the_next_step_keeps_no_more_than_the_sample():
    model = make_model(dtype=torch.float64)
    optimizer = torch.optim.AdamW(model.parameters())
    found = next_step(model, batches(1, count=4), optimizer=optimizer, mixed_rows=0.5)
    assert {len(one.losses) for one in found.kept.passes.values()} == {1}
    assert all(one.scale > 1 for one in found.kept.passes.values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mixed_rows": 0.0}, "over 0 and at most 1. Found 0.0"),
        ({"mixed_rows": 1.5}, "Found 1.5"),
        ({"mixed_rows": "half"}, "Found 'half'"),
        ({"mixed_rows": 0.5, "meta_gradient": "first_order"}, "which has no mixed product"),
        (
            {"mixed_rows": 0.5, "lookahead": "per_language", "inner_steps": 2},
            "`inner_steps=2`, whose products follow one another",
        ),
        ({"mixed_rows": 0.5, "languages_per_pass": 2}, "Found `mixed_rows=0.5`"),
    ],
)
def test_what_cannot_be_sampled_is_refused(options, said):
    with pytest.raises(ConfigurationError, match=said):
        step(make_model(), **options)


@pytest.mark.parametrize("take", ["meta", "next"])
def test_a_language_without_a_label_is_as_one_that_is_not_there(take):
    model = make_model(dtype=torch.float64)
    train, meta = batches(1, count=4), batches(2, count=4)
    absent = LANGUAGES[1]
    without = {key: one for key, one in train.items() if key != absent}
    labels = torch.full_like(train[absent]["labels"], -100)
    train[absent] = {**train[absent], "labels": labels}
    meta.pop(absent)

    def found(given):
        if take == "meta":
            options = {"meta_languages": list(meta), "mixed_rows": 0.5, "seed": 0}
            return step(model, given, meta, **options)
        return run(copy.deepcopy(model), first=given, then=without, mixed_rows=0.5)

    one, other = found(train), found(without)
    for key in without:
        for part in ("direct", "indirect"):
            torch.testing.assert_close(getattr(one, part)[key], getattr(other, part)[key])


def test_losses_without_rows_need_a_sample():
    theta, phi = (torch.ones(2, requires_grad=True) for _ in range(2))

    def loss():
        return (theta * phi).square().sum()

    problem = {"en": loss}, {"en": loss}, {"w": theta}, {"en": {"a": phi}}
    with pytest.raises(ConfigurationError, match="needs `SampledLosses` of each language"):
        meta_gradient(*problem, inner_learning_rate=0.1, mixed_rows=0.5)


def test_entries_of_a_batch_are_divided_with_its_rows():
    model = make_model(dtype=torch.float64)
    train = {key: {**one, "names": [*"abcd"]} for key, one in batches(1, count=4).items()}
    seen = []

    def evaluate(model, given):
        seen.append((given["names"], len(given["labels"])))
        return model(**{n: entry for n, entry in given.items() if n != "names"}).loss

    step(model, train, train, loss_function=evaluate, mixed_rows=0.75)
    assert (["a", "b", "c"], 3) in seen

    seen.clear()
    _common_losses._REFUSED.add(model)
    step(model, train, train, loss_function=evaluate, mixed_rows=0.75)
    assert (["d"], 1) in seen
