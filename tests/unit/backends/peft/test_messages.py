"""The words by which errors of PEFT are recognised, raised by PEFT itself."""

from __future__ import annotations

from typing import Any

import peft
import pytest
from peft import LoraConfig, NoMatchingPeftModuleError, get_peft_model

from hf_meta_adapters.backends.peft._messages import allows_one_adapter, lacks_target
from tests.tiny import tiny


def put_together(*configs: Any) -> None:
    model = get_peft_model(tiny("bert").make(), configs[0], "first")
    for config in configs[1:]:
        model.add_adapter("second", config)


def raised(*configs: Any) -> ValueError:
    """What PEFT raises when it puts the adapters into a model one after the other."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  whatever PEFT says
        put_together(*configs)
    return caught.value


def query(**options: Any) -> LoraConfig:
    return LoraConfig(r=2, target_modules=["query"], **options)


def adalora() -> peft.AdaLoraConfig:
    return peft.AdaLoraConfig(init_r=2, target_r=1, total_step=10, target_modules=["query"])


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(target_modules=["qkv"]),
        LoraConfig(target_modules=["query"], exclude_modules=r".*query"),
        LoraConfig(target_modules=["query"], modules_to_save=["query"]),
    ],
    ids=["absent", "excluded", "saved as a whole"],
)
def test_a_target_that_the_model_lacks(config: Any) -> None:
    error = raised(config)
    assert isinstance(error, NoMatchingPeftModuleError)
    assert lacks_target(error)
    assert not allows_one_adapter(error)


def test_a_target_that_the_method_cannot_adapt_has_no_class_but_words() -> None:
    error = raised(LoraConfig(target_modules=["LayerNorm"]))
    assert not isinstance(error, NoMatchingPeftModuleError)
    assert lacks_target(error)
    assert not allows_one_adapter(error)


@pytest.mark.parametrize(
    "configs",
    [(adalora(), adalora()), (query(bias="all"), query(bias="all"))],
    ids=["AdaLoRA", "biases"],
)
def test_a_method_for_one_adapter(configs: Any) -> None:
    error = raised(*configs)
    assert allows_one_adapter(error)
    assert not lacks_target(error)


def test_other_errors_are_not_taken_for_these() -> None:
    error = raised(
        query(init_lora_weights="gaussian"), peft.PrefixTuningConfig(num_virtual_tokens=1)
    )
    assert not lacks_target(error)
    assert not allows_one_adapter(error)
