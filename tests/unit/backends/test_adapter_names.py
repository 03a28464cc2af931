"""What the adapter of a language is called inside a library."""

from __future__ import annotations

import pytest
from torch import nn

from hf_meta_adapters.backends._adapter_names import AdapterNames


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wo = nn.Linear(2, 2)
        self.act = nn.GELU()
        self.language_to = nn.Linear(2, 2)


NAMES = AdapterNames(Base(), [nn.ModuleDict(), nn.ParameterDict()], prefix="lora_")


@pytest.mark.parametrize(
    ("language", "name"),
    [
        ("en", "en"),
        ("zh-Hant", "zh-Hant"),
        ("wo", "language_wo"),  # a module with tensors
        ("act", "language_act"),  # a module without
        ("get", "language_get"),  # an attribute of ParameterDict
        ("lo", "language_lo"),  # a part of the prefix
        ("weight", "language_weight"),  # no language tag, but a part of names
        ("to", "language_language_to"),  # an attribute, and the next name is a module
    ],
)
def test_a_name_is_that_of_the_language_unless_it_could_be_mistaken(
    language: str, name: str
) -> None:
    assert NAMES.of(language) == name


def test_only_what_the_library_uses_counts() -> None:
    names = AdapterNames(Base(), [nn.ModuleDict()])
    assert names.of("get") == "get"
    assert names.of("lo") == "lo"
    assert names.of("pop") == "language_pop"
