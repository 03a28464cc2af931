"""Who owns which tensor."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling._ownership import Ownership
from hf_meta_adapters.modeling._theta import chosen_names


class Wrapped(nn.Module):
    """A module around a module, as adapter libraries make it, with parameters of its own."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.base_layer = inner
        self.own = nn.ParameterDict()


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.adapter = nn.Linear(2, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(2, 3, bias=False)
        self.head.weight = self.adapter.weight  # tied
        self.fixed = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.register_buffer("places", torch.arange(3), persistent=False)


NAMES = ["fixed", "adapter.weight", "adapter.bias", "norm.weight", "norm.bias"]


def grown() -> tuple[Base, Ownership]:
    """Two languages named like parts of names, the second with a parameter that is not trained."""
    base = Base()
    held = Ownership.of_base(base).held(base)
    base.adapter = Wrapped(base.adapter)  # type: ignore[assignment]
    base.adapter.own["te"] = nn.Parameter(torch.zeros(4))
    ownership = held.after(base, "te")
    held = ownership.held(base)
    base.adapter.own["adapter"] = nn.Parameter(torch.zeros(5))
    base.adapter.own["fixed"] = nn.Parameter(torch.zeros(6), requires_grad=False)
    return base, held.after(base, "ad")


def test_the_base_is_shared_as_far_as_it_is_trained() -> None:
    ownership = Ownership.of_base(Base())
    assert ownership.shared == [name for name in NAMES if name != "fixed"]
    assert ownership.languages == ownership.created == {}
    assert set(ownership.original) == {
        *NAMES,
        "head.weight",
        *(f"norm.{x}" for x in ("running_mean", "running_var")),
    } | {"norm.num_batches_tracked"}
    assert Ownership.of_base(Base(), {"norm.bias", "fixed"}).shared == ["norm.bias"]


def test_owners_are_found_by_identity_when_names_change() -> None:
    base, ownership = grown()
    assert ownership.shared == [
        "adapter.base_layer.weight",
        "adapter.base_layer.bias",
        "norm.weight",
        "norm.bias",
    ]
    assert ownership.languages == {"te": ["adapter.own.te"], "ad": ["adapter.own.adapter"]}
    assert ownership.created == {
        "te": ["adapter.own.te"],
        "ad": ["adapter.own.adapter", "adapter.own.fixed"],
    }
    state = base.state_dict(keep_vars=True)
    assert all(
        state[ownership.original[name]] is base.head.weight
        for name in ("adapter.weight", "head.weight")
    )
    assert set(ownership.original) == set(Base().state_dict())
    assert set(ownership.original.values()) <= set(base.state_dict())


def test_what_comes_without_a_language_is_shared() -> None:
    base = Base()
    held = Ownership.of_base(base).held(base)
    base.adapter.extra = nn.Parameter(torch.zeros(1))
    ownership = held.after(base)
    assert "adapter.extra" in ownership.shared
    assert ownership.languages == {}


def test_a_freed_parameter_lends_its_identity_to_none() -> None:
    base = Base()
    held = Ownership.of_base(base, set()).held(base)
    old = id(base.fixed)
    del base.fixed
    new = [nn.Parameter(torch.zeros(1)) for _ in range(100)]
    assert old not in map(id, new)
    base.adapter.own = nn.ParameterList(new)
    with pytest.raises(KeyError):
        held.after(base, "te")


def test_only_what_is_owned_has_gradients() -> None:
    base, ownership = grown()
    for parameter in base.parameters():
        parameter.requires_grad_(not parameter.requires_grad)
    ownership.require_gradients(base)
    trained = {name for name, parameter in base.named_parameters() if parameter.requires_grad}
    assert trained == {*ownership.shared, "adapter.own.te", "adapter.own.adapter"}


def test_some_languages_alone_have_gradients() -> None:
    base, ownership = grown()
    everything = list(ownership.languages)
    for frozen, shared in ((["te"], False), (everything, True), ([], False)):
        ownership.require_gradients(base, frozen, shared=shared)
        languages = [key for key in everything if key not in frozen]
        trained = {name for name, parameter in base.named_parameters() if parameter.requires_grad}
        own = [name for key in languages for name in ownership.languages[key]]
        assert trained == {*(ownership.shared if shared else ()), *own}


def test_what_is_no_longer_called_is_no_part_of_theta() -> None:
    base, ownership = grown()
    assert ownership.without(base, []).shared == ownership.shared
    found = ownership.without(base, [base.norm, base.adapter.base_layer])
    assert found.shared == ["adapter.base_layer.weight"]  # the head is tied to it
    assert (found.languages, found.created, found.original) == (
        ownership.languages,
        ownership.created,
        ownership.original,
    )


def test_tensors_without_a_gradient_are_left_alone() -> None:
    base = nn.Module()
    base.codes = nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)
    base.scale = nn.Parameter(torch.ones(1))
    Ownership.of_base(base).require_gradients(base)
    assert not base.codes.requires_grad
    assert base.scale.requires_grad


def test_parameters_are_counted_by_owner() -> None:
    base, ownership = grown()
    assert (
        ownership.count(base)
        == "shared (θ): 15 || per language (φ): te 4, ad 5 || frozen: 7 || all: 31"
    )


def test_shared_names_are_chosen_by_a_regular_expression() -> None:
    base = Base()
    assert chosen_names(base, "all") is None
    assert chosen_names(base, "none") == set()
    assert chosen_names(base, r"bias$") == {"adapter.bias", "norm.bias"}
    assert chosen_names(base, "norm|adapter.weight") == {
        "norm.weight",
        "norm.bias",
        "adapter.weight",
    }


@pytest.mark.parametrize(
    ("shared", "found"),
    [
        ("[", r"Found '\[': unterminated character set"),
        (
            "fixed",
            (
                r"Found 'fixed', which matches none of \['adapter.weight', .* and 4 in all. Use a"
                r" part of such"
            ),
        ),
        (None, "Found None of type `NoneType`"),
        (["norm"], r"Found \['norm'\] of type `list`. Use for example"),
    ],
)
def test_a_choice_that_cannot_work_is_refused(shared: object, found: str) -> None:
    with pytest.raises(
        ConfigurationError,
        match=f'`shared` must be "all", "none" or a regular expression.* {found}',
    ):
        chosen_names(Base(), shared)  # type: ignore[arg-type]
