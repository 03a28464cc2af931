from contextlib import contextmanager

import pytest
import torch
from torch import nn

from hf_meta_adapters.anatomy.passes import device_of, evaluation_mode, routed_to


class Routed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.language = None

    @contextmanager
    def use_language(self, language):
        self.language = language
        yield
        self.language = None


def test_every_module_gets_its_own_mode_back_even_after_an_error():
    model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    modes = []

    def interrupted():
        with evaluation_mode(model):
            modes.extend(module.training for module in model.modules())
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        interrupted()
    assert modes == [False, False, False]
    assert [module.training for module in model.modules()] == [True, True, False]


def test_a_model_with_languages_is_routed_through_a_wrapper_and_another_model_is_left_alone():
    model = Routed()
    for wrapped in (model, torch.compile(model, backend="eager")):
        with routed_to(wrapped, "sw"):
            assert model.language == "sw"
        assert model.language is None
    with routed_to(nn.Linear(1, 1), "sw"):
        pass


def test_the_device_is_that_of_the_parameters():
    assert device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(nn.ReLU()) == torch.device("cpu")
