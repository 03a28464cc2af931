"""Which backend serves which configuration, and how a backend of a user's own is made known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig
from safetensors.torch import load_file, save_file
from torch import nn

from hf_meta_adapters import LanguageAdapterModel, get_language_model, register_backend
from hf_meta_adapters.backends import Backend, registry
from hf_meta_adapters.backends.registry import backend_for, backend_named, shared_part_backend
from hf_meta_adapters.errors import ConfigurationError
from tests.adapted import outputs, same, stirred
from tests.tiny import tiny


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_REGISTERED", "_CONFIGURATIONS"):
        monkeypatch.setattr(registry, name, {})


@dataclass
class ScaleConfig:
    """The number with which a fresh language multiplies its embeddings."""

    start: float = 1.0


class NarrowScaleConfig(ScaleConfig):
    pass


class ScaleBackend(Backend):
    """A number for each language, by which all embeddings are multiplied."""

    name = "scale"

    def __init__(self, model: Any, config: Any) -> None:
        super().__init__(model, config)
        self.scales = model.scales = nn.ParameterDict()
        self.active: str | None = None
        model.get_input_embeddings().register_forward_hook(self.scaled)

    def scaled(self, module: Any, inputs: Any, output: Any) -> Any:
        return output if self.active is None else output * self.scales[self.active]

    @property
    def module(self) -> nn.Module:
        return self.base

    def add(self, language: str) -> None:
        self.scales[language] = nn.Parameter(torch.tensor(self.config.start))

    def activate(self, language: str) -> None:
        self.active = language

    def save(self, language: str, directory: Path) -> None:
        directory.mkdir(parents=True)
        (directory / "start").write_text(str(self.config.start))
        save_file({"scale": self.scales[language].detach()}, directory / "scale.safetensors")

    def load(self, language: str, directory: Path, body: str | None = None) -> None:
        with torch.no_grad():
            self.scales[language].copy_(load_file(directory / "scale.safetensors")["scale"])

    @classmethod
    def saved_config(cls, directory: Path, body: str | None = None) -> ScaleConfig:
        return ScaleConfig(float((directory / "start").read_text()))


def test_a_registered_backend_serves_its_configurations_and_reads_what_it_saved(
    tmp_path: Path,
) -> None:
    assert register_backend(ScaleConfig)(ScaleBackend) is ScaleBackend
    cell = tiny("bert")
    model = stirred(get_language_model(cell.make(), ScaleConfig(2.0), ["en", "sw"]))
    assert {name.split(".")[-1] for name in model.language_parameters("sw")} == {"sw"}
    alone = {key: outputs(model, cell.batch(), language=key) for key in model.languages}
    assert not same(alone["en"], alone["sw"])

    model.save_pretrained(tmp_path)
    loaded = LanguageAdapterModel.from_pretrained(tmp_path)
    assert isinstance(loaded.backend, ScaleBackend)
    assert loaded.backend.config == ScaleConfig(2.0)
    for key in model.languages:
        assert same(outputs(loaded, cell.batch(), language=key), alone[key])


def test_the_most_specific_class_decides() -> None:
    class Narrow(ScaleBackend):
        name = "narrow"

    class Mine(LoraConfig):
        pass

    class OwnLora(ScaleBackend):
        name = "own_lora"

    register_backend(ScaleConfig)(ScaleBackend)
    assert backend_for(NarrowScaleConfig()) is ScaleBackend
    register_backend(NarrowScaleConfig)(Narrow)
    assert backend_for(NarrowScaleConfig()) is Narrow
    assert backend_for(ScaleConfig()) is ScaleBackend

    register_backend(Mine)(OwnLora)
    assert backend_for(Mine()) is OwnLora
    assert backend_for(LoraConfig()).name == "peft"


def test_one_backend_may_serve_several_classes() -> None:
    register_backend(ScaleConfig)(register_backend(str)(ScaleBackend))
    assert backend_for(ScaleConfig()) is backend_for("sixteen") is ScaleBackend


def test_a_class_that_is_registered_or_defined_again_is_accepted() -> None:
    register_backend(ScaleConfig)(ScaleBackend)
    register_backend(ScaleConfig)(ScaleBackend)
    assert backend_named("scale") is ScaleBackend

    again = type("ScaleBackend", (ScaleBackend,), {"__qualname__": "ScaleBackend"})
    again.__module__ = ScaleBackend.__module__
    register_backend(ScaleConfig)(again)
    assert backend_named("scale") is backend_for(ScaleConfig()) is again


@pytest.mark.parametrize("name", ["scale", "peft", "adapters", "none"])
def test_a_name_that_is_taken_is_refused(name: str) -> None:
    register_backend(ScaleConfig)(ScaleBackend)
    other = type("Other", (ScaleBackend,), {"name": name})
    with pytest.raises(
        ConfigurationError,
        match=rf"a name of its own. Found '{name}', which is taken.*'scale'.*Set another `name` in"
        " `Other`",
    ):
        register_backend(NarrowScaleConfig)(other)
    assert backend_named("scale") is ScaleBackend
    assert backend_for(NarrowScaleConfig()) is ScaleBackend


def test_a_class_of_configurations_with_another_backend_is_refused() -> None:
    register_backend(ScaleConfig)(ScaleBackend)
    other = type("Other", (ScaleBackend,), {"name": "other"})
    with pytest.raises(
        ConfigurationError, match=r"one backend. Found that `ScaleConfig` is served by 'scale'"
    ):
        register_backend(ScaleConfig)(other)
    with pytest.raises(ConfigurationError, match="Found 'other'"):
        backend_named("other")


class Half(Backend):
    name = "half"


class Nameless(ScaleBackend):
    name = ""


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (Half, r"implement all methods.*`Half` lacks \['activate', 'add', 'load', .*Define them"),
        (Nameless, r"the name under which.*Found '' in `Nameless`. Set `name`.*\"nameless\""),
        (LoraConfig, "a subclass of `Backend`. Found <class .*LoraConfig.*Derive it from"),
        ("scale", "a subclass of `Backend`. Found 'scale'"),
    ],
)
def test_what_is_not_a_whole_backend_is_refused(backend: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        register_backend(ScaleConfig)(backend)
    with pytest.raises(ConfigurationError, match="a PeftConfig such as"):
        backend_for(ScaleConfig())


@pytest.mark.parametrize("config", [ScaleBackend.name, ScaleConfig(), None, object])
def test_what_is_not_a_class_of_configurations_is_refused(config: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"needs the class of the configurations.*Found .*@register_back"
    ):
        register_backend(config)


def test_a_decorator_without_its_argument_is_explained() -> None:
    with pytest.raises(ConfigurationError, match=r"Found .*Bare.*`@register_backend\(MyConfig\)`"):

        @register_backend
        class Bare(ScaleBackend):
            pass


def test_theta_as_an_adapter_is_made_by_peft() -> None:
    assert shared_part_backend() is backend_for(PeftConfig())
