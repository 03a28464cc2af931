"""Training and meta languages that differ, and weights, against full unrolling."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_meta_adapters import MetaOptions, meta_step
from hf_meta_adapters.errors import ConfigurationError, LanguageError
from tests.tiny import in_double
from tests.training import make_model

from .reference import LANGUAGES, flat, replaced, seeded_loss
from .test_fidelity import METHODS, RATE, setting
from .test_groups import compare, text

CASES = {
    "one for another": (["te"], {"da": 1.0}),
    "overlapping": (["te", "da"], {"da": 1.0, "zh-Hant": 1.0}),
    "weights": (["te", "da"], {"da": 3.0, "zh-Hant": 1.0}),
    "of all": (list(LANGUAGES), {"zh-Hant": 2.0, "te": 0.5}),
}


@sdpa_kernel(SDPBackend.MATH)
def unrolled(model, train, meta, weights, steps=1) -> dict:
    """∇φ of Σ_j w_j L_j^val(θ'_i, φ_j): of a language that is not trained on, the mean over i."""
    total, result = sum(weights.values()), {}
    shared = model.shared_parameters()
    for key in train:
        ahead = dict(shared)
        for _ in range(steps):
            with replaced(model, shared, ahead), model.use_language(key):
                loss = seeded_loss(model, train[key])
            slopes = torch.autograd.grad(
                loss, list(ahead.values()), create_graph=True, allow_unused=True
            )
            ahead = {
                name: p if g is None else p - RATE * g
                for (name, p), g in zip(ahead.items(), slopes, strict=True)
            }
        value = 0.0
        for other, weight in weights.items():
            with replaced(model, shared, ahead), model.use_language(other):
                value = value + weight / total * seeded_loss(model, meta[other])
        idle = [other for other in weights if other not in train]
        for own, share in {key: 1.0, **dict.fromkeys(idle, 1 / len(train))}.items():
            named = model.language_parameters(own)
            slopes = torch.autograd.grad(
                value, list(named.values()), retain_graph=True, allow_unused=True
            )
            entries = result.setdefault(own, {})
            for name, g in zip(named, slopes, strict=True):
                if g is not None:
                    entries[name] = entries.get(name, 0.0) + share * g
    return result


def case(name, method, which):
    languages, weights = CASES[which]
    model, train, meta = setting(name, method)
    return model, {key: train[key] for key in languages}, {key: meta[key] for key in weights}


def step(model, train, meta, weights, **options):
    given = {"lookahead": "per_language", "meta_gradient": "exact", **options}
    return meta_step(
        model,
        train,
        meta,
        inner_learning_rate=RATE,
        loss_function=seeded_loss,
        meta_languages=weights,
        **given,
    )


@pytest.mark.parametrize("name", ["xlm-r", "llama"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("which", CASES)
def test_equals_full_unrolling(name, method, which) -> None:
    _, weights = CASES[which]
    with in_double():
        model, train, meta = case(name, method, which)
        expected = unrolled(model, train, meta, weights)
        found = step(model, train, meta, weights)
    assert set(found.language) == set(train) | set(meta)
    distance = (flat(found.language) - flat(expected)).norm() / flat(expected).norm()
    assert distance < 1e-10
    for key in found.language:
        assert bool(found.direct[key]) == (key in meta)
        assert bool(found.indirect[key]) == (key in train)


@pytest.mark.parametrize("options", [{"inner_steps": 2}, {"lookahead": "shared"}])
def test_several_steps_and_one_step_for_all(options) -> None:
    """With one training language, the shared look-ahead is that of the language."""
    with in_double():
        model, train, meta = case("xlm-r", "bottleneck", "one for another")
        expected = unrolled(model, train, meta, {"da": 1.0}, options.get("inner_steps", 1))
        found = step(model, train, meta, {"da": 1.0}, **options)
    assert (flat(found.language) - flat(expected)).norm() / flat(expected).norm() < 1e-10


@pytest.mark.parametrize("lookahead", ["per_language", "shared", "none"])
@pytest.mark.parametrize("estimator", ["finite_difference", "forward_mode", "first_order"])
def test_every_estimator(estimator, lookahead) -> None:
    _, weights = CASES["weights"]
    with in_double():
        model, train, meta = case("xlm-r", "bottleneck", "weights")
        exact = step(model, train, meta, weights, lookahead=lookahead)
        found = step(model, train, meta, weights, lookahead=lookahead, meta_gradient=estimator)
    torch.testing.assert_close(found.direct, exact.direct)
    if estimator == "first_order":
        assert not any(found.indirect.values())
    else:
        assert (flat(found.indirect) - flat(exact.indirect)).norm() < 1e-4 * flat(
            exact.indirect
        ).norm()


def test_a_list_has_equal_weights() -> None:
    _, train, meta = case("xlm-r", "bottleneck", "overlapping")
    model = setting("xlm-r", "bottleneck")[0]
    found = step(model, train, meta, ["da", "zh-Hant"])
    expected = step(model, train, meta, {"zh-Hant": 0.1, "da": 0.1})
    torch.testing.assert_close(found.language, expected.language)


def test_all_languages_by_name_are_all() -> None:
    model, train, meta = setting("xlm-r", "bottleneck")
    found, expected = (step(model, train, meta, which) for which in (list(LANGUAGES), "all"))
    torch.testing.assert_close(found.language, expected.language)


def test_one_language_at_a_time() -> None:
    """As in alternating updates; the idle language needs the steps of all training languages."""
    _, weights = CASES["overlapping"]
    model, train, meta = case("xlm-r", "bottleneck", "overlapping")
    whole = step(model, train, meta, weights)
    for key in whole.language:
        found = step(model, train, meta, weights, for_languages=[key])
        torch.testing.assert_close(found.language[key], whole.language[key])


def test_drawn_languages_average_to_all_of_them() -> None:
    weights = {"te": 1.0, "da": 2.0, "zh-Hant": 3.0}
    model, train, meta = setting("xlm-r", "bottleneck")
    train = {"te": train["te"]}
    whole = step(model, train, meta, weights)
    draws = [
        step(model, train, meta, weights, meta_languages_per_step=2, seed=s) for s in range(40)
    ]
    kinds = {tuple(sorted(draw.meta_loss)): draw for draw in draws}
    assert set(kinds) == {("da", "te"), ("te", "zh-Hant")}
    mean = sum(flat({"te": draw.indirect["te"]}) for draw in kinds.values()) / 2
    torch.testing.assert_close(mean, flat({"te": whole.indirect["te"]}), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "found",
    ["some", [], ["da", "da"], {"da": 0.0}, {"da": -1.0}, {"da": float("nan")}, {"da": "1"}, 3],
)
def test_languages_that_cannot_be_meant(found) -> None:
    with pytest.raises(ConfigurationError, match=r"`meta_languages` must be .* Found"):
        MetaOptions(meta_languages=found)


def test_batches_that_do_not_fit() -> None:
    model = make_model()
    _, train, meta = case("xlm-r", "bottleneck", "overlapping")
    with pytest.raises(LanguageError, match=r"every language of `meta_languages`.*\['te'\]"):
        step(model, train, meta, ["te", "da", "zh-Hant"])
    with pytest.raises(LanguageError, match=r"Found \['zh-Hant'\] beside \['da'\]"):
        step(model, train, meta, ["da"])
    with pytest.raises(LanguageError, match=r"every language of `train_losses`.*\['te'\]"):
        step(model, train, meta, "all")


GROUPED = {
    "one for another": (["te"], {"da": 1.0}),
    "overlapping": (["te", "da"], {"da": 1.0, "zh-Hant": 1.0}),
    "weights of others": (["te"], {"da": 3.0, "zh-Hant": 1.0}),
    "of all, in another order": (list(LANGUAGES), {"zh-Hant": 2.0, "te": 0.5, "da": 1.0}),
}


@pytest.mark.parametrize("size", [2, 99])
@pytest.mark.parametrize("which", GROUPED)
@pytest.mark.parametrize(
    "options",
    [
        {"meta_gradient": "exact"},
        {"preset": "fast", "indirect_ratio": 1.0, "shared_update": "project"},
        {"meta_gradient": "first_order"},
        {"lookahead": "none", "max_indirect_ratio": 1e-3, "indirect_ratio_scope": "language"},
        {"meta_gradient": "exact", "for_languages": ["da"]},
        {"meta_gradient": "exact", "train_gradients": False},
    ],
    ids=str,
)
def test_languages_in_one_pass_give_what_one_pass_a_language_gives(which, size, options) -> None:
    languages, weights = GROUPED[which]
    model = make_model(LANGUAGES, dtype=torch.float64).train()
    given = {"meta_languages": weights, "lookahead": "shared", **options}
    if "preset" in given:
        del given["lookahead"]
    with in_double():
        train = {key: text(number) for number, key in enumerate(languages)}
        meta = {key: text(50 + number) for number, key in enumerate(weights)}
        found, expected = (
            meta_step(model, train, meta, inner_learning_rate=0.05, languages_per_pass=n, **given)
            for n in (size, 1)
        )
    compare(found, expected, 1e-6)
    if expected.removed is None:
        assert found.removed is None
    else:
        torch.testing.assert_close(found.removed, expected.removed)
    assert any(expected.direct.values())


def test_languages_in_one_pass_without_a_label_do_not_count() -> None:
    languages, weights = GROUPED["of all, in another order"]
    model = make_model(LANGUAGES, dtype=torch.float64).train()
    with in_double():
        train = {key: text(number) for number, key in enumerate(languages)}
        meta = {key: text(50 + number) for number, key in enumerate(weights)}
        train["da"]["labels"].fill_(-100)
        meta["te"]["labels"].fill_(-100)
        options = {"meta_languages": weights, "meta_gradient": "exact", "lookahead": "shared"}
        found, expected = (
            meta_step(model, train, meta, inner_learning_rate=0.05, languages_per_pass=n, **options)
            for n in (99, 1)
        )
    compare(found, expected, 1e-6)
    assert found.without_loss == {"train": ("da",), "meta": ("te",)}


def test_batches_in_one_pass_must_be_those_that_count() -> None:
    model = make_model(LANGUAGES)
    train, meta = {"te": text(1)}, {"da": text(2), "zh-Hant": text(3)}
    given = {"inner_learning_rate": 0.1, "languages_per_pass": 2, "lookahead": "shared"}
    with pytest.raises(LanguageError, match=r"names, with a weight over 0. Found \['da', 'zh"):
        meta_step(model, train, meta, meta_languages=["da"], **given)
