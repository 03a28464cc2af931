"""The projection of the shared update: closed forms, layers, and options that rule it out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta import MetaOptions, meta_gradient

from .problems import make
from .test_gradient import step

NAMES = ["encoder.layer.0.w", "encoder.layer.1.w"]


def quadratics(source: list[Tensor], target: list[Tensor], **options):
    """One step on ½‖θ − a‖² of a training language and ½‖θ − b‖² of a meta language, from θ = 0.

    The gradients there are −a and −b; without a look-ahead, v is −b.
    """
    theta = [torch.zeros_like(one, requires_grad=True) for one in source]
    phi = {key: {"p": torch.ones((), dtype=torch.float64, requires_grad=True)} for key in "st"}

    def loss(points: list[Tensor], key: str):
        return lambda: sum(
            0.5 * (p - phi[key]["p"] * point).square().sum()
            for p, point in zip(theta, points, strict=True)
        )

    return meta_gradient(
        {"s": loss(source, "s")},
        {"t": loss(target, "t")},
        dict(zip(NAMES, theta, strict=True)),
        phi,
        inner_learning_rate=0.1,
        meta_languages=["t"],
        meta_gradient="exact",
        lookahead="none",
        **options,
    )


def vectors(*entries: list[float]) -> list[Tensor]:
    return [torch.tensor(entry, dtype=torch.float64) for entry in entries]


def test_what_opposes_the_target_is_removed() -> None:
    source, target = vectors([3.0, 1.0], [0.0, 0.0]), vectors([-1.0, 0.0], [0.0, 0.0])
    found = quadratics(source, target, shared_update="project")
    torch.testing.assert_close(found.shared[NAMES[0]], vectors([0.0, -1.0])[0])
    torch.testing.assert_close(found.removed, torch.tensor(3 / 10**0.5, dtype=torch.float64))


@pytest.mark.parametrize("groups", ["model", "layer"])
def test_the_mean_is_kept_where_nothing_opposes(groups) -> None:
    source, target = vectors([3.0, 1.0], [0.5, 2.0]), vectors([1.0, 0.0], [0.0, 0.0])
    found = quadratics(source, target, shared_update="project", shared_update_groups=groups)
    plain = quadratics(source, target)
    assert all(torch.equal(found.shared[name], plain.shared[name]) for name in NAMES)
    assert found.removed == 0
    assert plain.removed is None


def test_layers_are_projected_by_themselves() -> None:
    """The whole model agrees (⟨g, v⟩ = 8 − 3), its second layer does not."""
    source, target = vectors([2.0, 0.0], [3.0, 1.0]), vectors([4.0, 0.0], [-1.0, 0.0])
    whole = quadratics(source, target, shared_update="project")
    torch.testing.assert_close(list(whole.shared.values()), vectors([-2.0, 0.0], [-3.0, -1.0]))
    layers = quadratics(source, target, shared_update="project", shared_update_groups="layer")
    torch.testing.assert_close(list(layers.shared.values()), vectors([-2.0, 0.0], [0.0, -1.0]))


@pytest.mark.parametrize("lookahead", ["per_language", "shared", "none"])
@pytest.mark.parametrize("languages", ["all", "others", ["da"], {"te": 1.0, "zh-Hant": 2.0}])
def test_only_the_update_of_the_shared_weights_changes(lookahead, languages) -> None:
    """Against a target that is turned round, so that all of it opposes."""
    case = make(dropout=0.0)
    meta = {key: (lambda loss=loss: -loss()) for key, loss in case.losses("train").items()}
    named = meta if languages in ("all", "others") else {key: meta[key] for key in languages}

    def found(**options):
        return meta_gradient(
            case.losses("train"),
            named,
            case.shared,
            case.language,
            inner_learning_rate=1e-3,
            meta_languages=languages,
            lookahead=lookahead,
            **options,
        )

    plain, one = found(), found(shared_update="project")
    torch.testing.assert_close(one.language, plain.language)
    assert one.removed > 0.3
    removed = {name: plain.shared[name] - entry for name, entry in one.shared.items()}
    inner = sum((removed[name] * one.shared[name]).sum() for name in removed)
    assert abs(inner) < 1e-9


@pytest.mark.parametrize(
    "options", [{"meta_gradient": "first_order"}, {"lookahead": "next"}, {"cpu_offload": True}]
)
def test_options_without_a_validation_gradient(options) -> None:
    with pytest.raises(ConfigurationError, match="compares the training gradient of θ"):
        MetaOptions(shared_update="project", **options)


def test_names_that_are_unknown() -> None:
    for name in ("shared_update", "shared_update_groups"):
        with pytest.raises(ConfigurationError, match=f"`{name}` must be one of"):
            step(make(), **{name: "all"})
