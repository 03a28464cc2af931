"""Language-specific parameters by PEFT: one PEFT adapter for each language."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors.torch import save_file
from torch import Tensor, nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends._adapter_file import WEIGHTS, read_weights
from hf_meta_adapters.backends._base import Backend
from hf_meta_adapters.errors import ConfigurationError, HubError, UnsupportedModelError

CONFIG = "adapter_config.json"
_HEADS = {"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"}
_PREFIX = "language_"
_TAG = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]+)*")
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_NAMES_OF_MODULES = ("target_modules", "feedforward_modules", "exclude_modules")
_NOT_COMPARED = {"base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type", "auto_mapping"}


class PeftBackend(Backend):
    """One PEFT adapter per language, for any `PeftConfig`.

    A task type of classification would make PEFT give each adapter a head of its own. Across languages the head is
    shared unless `modules_to_save` names it, so such a task type is left out of the configuration; prompt methods,
    which cannot do without, keep it.

    Args:
        model: The transformers model.
        config: The configuration; every language gets a copy of it.

    Raises:
        UnsupportedModelError: If the model has adapters of PEFT already.
        ConfigurationError: If the way to initialise an adapter changes the base model, which other languages share.
    """

    name: ClassVar[str] = "peft"

    def __init__(self, model: nn.Module, config: PeftConfig) -> None:
        super().__init__(model, copy.deepcopy(config))
        _check_bare(model)
        _check_initialisation(config)
        task = getattr(config.task_type, "value", config.task_type)
        if task in _HEADS and not config.is_prompt_learning:
            self.config.task_type = None
        self._model: PeftModel | None = None
        self._switches: list[BaseTunerLayer | AuxiliaryTrainingWrapper] = []
        names = [*model.state_dict(), *(name for name, _ in model.named_modules())]
        self._components = {part for name in names for part in name.split(".")}

    @property
    def module(self) -> nn.Module:
        """The `PeftModel`, or the model while it has no adapter."""
        return self.base if self._model is None else self._model

    def add(self, language: Language) -> None:
        """Create an adapter."""
        config = copy.deepcopy(self.config)
        config.inference_mode = False
        try:
            with _without_noise():
                self._create(language, config)
        except ValueError as error:
            if "arget module" in str(error):
                raise UnsupportedModelError(self._no_target(error)) from error
            if "only 1" in str(error):
                raise ConfigurationError(
                    f"A method must allow several trained adapters in one model. Found `{type(self.config).__name__}`, "
                    f'of which PEFT says: "{error}" Write for example `LoraConfig(target_modules="all-linear")`.'
                ) from error
            raise
        self._peft().set_adapter(self.adapter(language))  # marks what the method trains of it
        kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        self._switches = [part for part in self._peft().modules() if isinstance(part, kinds)]

    def activate(self, language: Language) -> None:
        """Name the adapter that the layers use.

        PEFT's own `set_adapter` also turns `requires_grad` off on all other adapters, which then silently never train,
        so the layers are told directly what it would tell them.
        """
        if self._model is None:
            return
        name = self.adapter(language)
        for part in self._switches:
            part._active_adapter = [name]
        self._model.active_adapter = name
        if not self.config.is_prompt_learning:
            self._model.base_model.active_adapter = name

    def save(self, language: Language, directory: Path) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json`, as `PeftModel.save_pretrained` does."""
        config = copy.deepcopy(self._peft().peft_config[self.adapter(language)])
        config.inference_mode = True
        config.base_model_name_or_path = None  # the base is the folder above, wherever that will be
        directory.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.detach().contiguous().clone() for name, tensor in self._state(language).items()}
        save_file(state, directory / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(str(directory))

    def load(self, language: Language, directory: Path, body: str | None = None) -> None:
        """Read an adapter that PEFT or `save` wrote, after comparing configuration, names and shapes."""
        found = read_weights(directory, self._state(language), body)
        self._check_config(language, directory, body)
        set_peft_model_state_dict(self._peft(), found, adapter_name=self.adapter(language))

    @classmethod
    def saved_config(cls, directory: Path, body: str | None = None) -> PeftConfig:
        """Read `adapter_config.json`; for another class, names of modules are taken relative to the body."""
        rule = f"An adapter must have a file `{CONFIG}` of PEFT."
        if not (directory / CONFIG).is_file():
            raise HubError(f"{rule} Found none in {directory}. Download or save the model again.")
        try:
            config = PeftConfig.from_pretrained(str(directory))
        except (KeyError, TypeError, ValueError) as error:
            raise HubError(
                f"{rule} Found in {directory} one that cannot be read: {type(error).__name__}: {error}. Download or "
                "save the model again, or install the version of peft that wrote it."
            ) from error
        config.base_model_name_or_path = None
        for setting in _NAMES_OF_MODULES if body else ():
            names = getattr(config, setting, None)
            if isinstance(names, (list, set)):
                setattr(config, setting, type(names)(name.removeprefix(f"{body}.") for name in names))
        return config

    def adapter(self, language: Language) -> str:
        """The name of the adapter inside PEFT: the language, unless PEFT could mistake that name for something else.

        PEFT tells adapters apart by the components of the names of tensors. So a name is kept only if it is a language
        tag, which are no names of modules, and if it is no part of the model's own names ("wo", Wolof, in T5), no
        attribute of a module dictionary ("to", Tongan) and no part of the method's prefix ("lo", Lao, in "lora_").
        """
        prefix = PEFT_TYPE_TO_PREFIX_MAPPING.get(self.config.peft_type) or ""
        taken = hasattr(nn.ModuleDict(), language) or hasattr(nn.ParameterDict(), language) or language in prefix
        name = language if _TAG.fullmatch(language) and not taken else f"{_PREFIX}{language}"
        return f"{_PREFIX}{name}" if name in self._components else name

    def _create(self, language: Language, config: PeftConfig) -> None:
        if self._model is None:
            self._model = get_peft_model(self.base, config, adapter_name=self.adapter(language))
        else:
            self._model.add_adapter(self.adapter(language), config)

    def _peft(self) -> PeftModel:
        if self._model is None:
            raise RuntimeError("The backend has no adapter yet; `add` comes first.")
        return self._model

    def _state(self, language: Language) -> dict[str, Tensor]:
        return get_peft_model_state_dict(self._peft(), adapter_name=self.adapter(language), save_embedding_layers=False)

    def _check_config(self, language: Language, directory: Path, body: str | None) -> None:
        """Refuse an adapter that has the right shapes but means something else by them, such as another scaling."""
        own = self._peft().peft_config[self.adapter(language)].to_dict()
        saved = self.saved_config(directory, body).to_dict()
        wrong = [
            f"{name}={saved.get(name)!r}, not {own.get(name)!r}"
            for name in sorted(own.keys() | saved.keys())
            if name not in _NOT_COMPARED and _plain(own.get(name)) != _plain(saved.get(name))
        ]
        if wrong:
            raise HubError(
                f"All languages must have adapters of one configuration. Found in {directory / CONFIG}: "
                f"{'; '.join(wrong)}. Train the adapter anew with the configuration of the others."
            )

    def _no_target(self, error: ValueError) -> str:
        leaves = {name.split(".")[-1] for name, part in self.base.named_modules() if not list(part.children()) and name}
        return (
            f"The adapter must find modules of the model to attach to. Found, with `target_modules="
            f"{getattr(self.config, 'target_modules', None)!r}` in `{type(self.base).__name__}`: {error} Write "
            f"`target_modules=[...]` with some of the model's own modules: {sorted(leaves)}."
        )


@contextmanager
def _without_noise() -> Iterator[None]:
    """Silence warnings that PEFT causes by itself and that a user can do nothing about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Unsupported layer type .*Norm", category=UserWarning)
        yield


def _check_bare(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(
            f"The base model must be a module. Found {model!r} of type `{type(model).__name__}`. Load it first, for "
            "example by `AutoModelForMaskedLM.from_pretrained(...)`."
        )
    if any(isinstance(part, (BaseTunerLayer, PeftModel)) for part in model.modules()):
        raise UnsupportedModelError(
            f"The base model must have no adapters of PEFT yet. Found some in `{type(model).__name__}`. Write "
            "`model.merge_and_unload()` for a PeftModel, or `add_language` for a model with languages."
        )


def _check_initialisation(config: PeftConfig) -> None:
    how = getattr(config, "init_lora_weights", True)
    if isinstance(how, str) and how.lower().startswith(_CHANGES_THE_BASE):
        raise ConfigurationError(
            "A new adapter must leave the base model as it is, since all languages share it. Found "
            f"`init_lora_weights={how!r}`, which changes it. Write for example `init_lora_weights=True`."
        )


def _plain(value: Any) -> Any:
    """A setting as JSON would have it: sets come back as lists, in any order."""
    return sorted(map(str, value)) if isinstance(value, (set, frozenset, list, tuple)) else value
