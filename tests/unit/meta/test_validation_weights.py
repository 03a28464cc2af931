"""Which validation losses count for which language, and with what weight."""

from __future__ import annotations

import pytest
import torch

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta import MetaOptions, meta_gradient
from hf_meta_adapters.meta._validation_weights import validation_weights

from .problems import LANGUAGES, make

MANY = ["te", "da", "in", "pt", "li", "zh-Hant"]


def weights(languages=MANY, seed=0, **options):
    return validation_weights(
        languages, languages, MetaOptions(lookahead="per_language", **options), seed
    )


def test_all_count_alike_or_all_but_the_language_itself():
    assert weights(["a", "b"]) == {"a": {"a": 0.5, "b": 0.5}, "b": {"a": 0.5, "b": 0.5}}
    assert weights(["a", "b", "c"], meta_languages="others")["b"] == {"a": 0.5, "c": 0.5}
    assert weights(["a"]) == {"a": {"a": 1.0}}


@pytest.mark.parametrize("languages", ["all", "others"])
@pytest.mark.parametrize("several", [2, 4, 6, 99])
def test_a_draw_has_the_number_asked_for_in_the_order_of_the_languages(languages, several):
    for key, found in weights(meta_languages=languages, meta_languages_per_step=several).items():
        most = len(MANY) if languages == "all" else len(MANY) - 1
        assert len(found) == min(several, most)
        assert list(found) == [other for other in MANY if other in found]
        assert (key in found) == (languages == "all")
        assert sum(found.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("languages", ["all", "others"])
def test_drawing_all_is_taking_all(languages):
    assert weights(meta_languages=languages, meta_languages_per_step=6) == weights(
        meta_languages=languages
    )


@pytest.mark.parametrize("languages", ["all", "others"])
@pytest.mark.parametrize("several", [2, 3])
def test_the_mean_over_draws_is_the_weight_of_all(languages, several):
    draws, total = 3000, torch.zeros(len(MANY), len(MANY))
    for seed in range(draws):
        found = weights(meta_languages=languages, meta_languages_per_step=several, seed=seed)
        total += torch.tensor([[found[key].get(other, 0.0) for other in MANY] for key in MANY])
    whole = weights(meta_languages=languages)
    expected = torch.tensor([[whole[key].get(other, 0.0) for other in MANY] for key in MANY])
    torch.testing.assert_close(
        total / draws, expected, rtol=0, atol=0.03
    )  # about four standard errors
    if languages == "all":
        torch.testing.assert_close(
            (total / draws).diagonal(), expected.diagonal()
        )  # always there, always 1/L


def test_a_draw_is_that_of_its_seed():
    draws = [weights(meta_languages_per_step=2, seed=seed) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("estimator", ["exact", "finite_difference", "first_order"])
def test_the_gradient_is_unbiased(estimator):
    case = make()

    def step(seed=0, **options):
        options |= {
            "meta_gradient": estimator,
            "lookahead": "per_language",
            "inner_learning_rate": 0.5,
            "seed": seed,
        }
        return meta_gradient(
            case.losses("train"), case.losses("meta"), case.shared, case.language, **options
        )

    whole = step()
    for key in LANGUAGES:  # each of the others is equally likely to be drawn beside the language
        of_draw = {}
        for seed in range(12):
            found = step(seed, meta_languages_per_step=2)
            (other,) = validation_weights(
                LANGUAGES,
                LANGUAGES,
                MetaOptions(lookahead="per_language", meta_languages_per_step=2),
                seed,
            )[key].keys() - {key}
            of_draw[other] = found.language[key]
        assert len(of_draw) == len(LANGUAGES) - 1
        for name, expected in whole.language[key].items():
            mean = torch.stack([one[name] for one in of_draw.values()]).mean(0)
            torch.testing.assert_close(mean, expected, rtol=1e-6, atol=1e-9)


def test_the_passes_do_not_grow_with_the_languages():
    case = make()
    calls = []

    def counted(role):
        def one(loss):
            return lambda: calls.append(role) or loss()

        return {key: one(loss) for key, loss in case.losses(role).items()}

    options = {"meta_gradient": "exact", "lookahead": "per_language", "meta_languages_per_step": 2}
    meta_gradient(
        counted("train"),
        counted("meta"),
        case.shared,
        case.language,
        inner_learning_rate=0.5,
        **options,
    )
    assert calls == ["train", "meta", "meta"] * len(LANGUAGES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"meta_languages_per_step": 2}, "need a look-ahead per language"),
        (
            {"meta_languages_per_step": 1, "lookahead": "per_language"},
            r"at least 2, since language i itself is always one",
        ),
        (
            {"meta_languages_per_step": 0, "lookahead": "per_language", "meta_languages": "others"},
            "at least 1",
        ),
        ({"meta_languages_per_step": 2.0, "lookahead": "per_language"}, "Found 2.0"),
    ],
)
def test_numbers_that_cannot_work(options, message):
    with pytest.raises(ConfigurationError, match=message):
        MetaOptions(**options)
