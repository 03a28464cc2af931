"""Language-specific parameters by PEFT: one PEFT adapter for each language."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends._base import Backend
from hf_meta_adapters.errors import HubError, UnsupportedModelError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_HEADS = {"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"}


class PeftBackend(Backend):
    """One PEFT adapter per language, for any `PeftConfig`.

    A task type of classification would make PEFT give each adapter a head of its own. Across languages the head is
    shared unless `modules_to_save` names it, so such a task type is left out of the configuration.

    Args:
        model: The transformers model.
        config: The configuration; every language gets a copy of it.
    """

    name: ClassVar[str] = "peft"

    def __init__(self, model: nn.Module, config: PeftConfig) -> None:
        super().__init__(model, copy.deepcopy(config))
        if getattr(self.config.task_type, "value", self.config.task_type) in _HEADS:
            self.config.task_type = None
        self._model: PeftModel | None = None
        self._switches: list[BaseTunerLayer | AuxiliaryTrainingWrapper] = []
        self._components = {part for name, _ in model.named_modules() for part in name.split(".")}

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
            if "arget module" not in str(error):
                raise
            raise UnsupportedModelError(self._no_target(error)) from error
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
        directory.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.detach().contiguous().clone() for name, tensor in self._state(language).items()}
        save_file(state, directory / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(str(directory))

    def load(self, language: Language, directory: Path) -> None:
        """Read an adapter that PEFT or `save` wrote; names and shapes are compared before anything changes."""
        path = directory / WEIGHTS
        if not path.is_file():
            raise HubError(
                f"The adapter of {language!r} must be in `{WEIGHTS}` (safetensors). Found none in {directory}."
            )
        found = _with_prefix_of(self._state(language), load_file(path))
        _check_same(self._state(language), found, language, path)
        set_peft_model_state_dict(self._peft(), found, adapter_name=self.adapter(language))

    @classmethod
    def saved_config(cls, directory: Path) -> PeftConfig:
        """Read `adapter_config.json`."""
        if not (directory / CONFIG).is_file():
            raise HubError(f"A saved PEFT adapter must have a file `{CONFIG}`. Found none in {directory}.")
        return PeftConfig.from_pretrained(str(directory))

    def adapter(self, language: Language) -> str:
        """The name of the adapter inside PEFT: the language, unless PEFT would mistake that name for something else.

        It would where the name is an attribute of a module dictionary ("to", Tongan), part of the method's prefix
        ("lo", Lao, in "lora_"), or a component of the model's own names ("wo", Wolof, in T5), since PEFT filters
        what it saves by components.
        """
        prefix = PEFT_TYPE_TO_PREFIX_MAPPING.get(self.config.peft_type) or ""
        taken = hasattr(nn.ModuleDict, language) or hasattr(nn.ParameterDict, language)
        if taken or language in prefix or language in self._components:
            return f"language_{language}"
        return language

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


def _with_prefix_of(expected: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adapter weights under the names of another model class over the same body.

    A body has its names with a prefix inside a model with a head (`roberta.encoder…`) and without one by itself
    (`encoder…`). Where the stored names differ from the expected ones by such a prefix alone, they are mapped.
    """
    start = "base_model.model."
    if set(found) == set(expected) or not found or not expected:
        return found
    for name in found:
        tail = name.removeprefix(start)
        for other in expected:
            longer, shorter = (other.removeprefix(start), tail)
            if longer.endswith("." + shorter):
                extra = longer[: -len(shorter)]
                moved = {start + extra + key.removeprefix(start): value for key, value in found.items()}
            elif shorter.endswith("." + longer):
                extra = shorter[: -len(longer)]
                moved = {start + key.removeprefix(start).removeprefix(extra): value for key, value in found.items()}
            else:
                continue
            if set(moved) == set(expected):
                return moved
    return found


def _check_same(expected: dict[str, Tensor], found: dict[str, Tensor], language: Language, path: Path) -> None:
    """Compare names and shapes, and list all differences at once."""
    lines = [f"missing: {name}" for name in expected if name not in found]
    lines += [f"not part of the adapter: {name}" for name in found if name not in expected]
    lines += [
        f"{name}: shape {tuple(found[name].shape)} in the file, {tuple(expected[name].shape)} in the model"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    if lines:
        shown = "; ".join(lines[:20]) + (f"; and {len(lines) - 20} more" if len(lines) > 20 else "")
        raise HubError(
            f"The adapter file of {language!r} must fit the model. Found in {path.name}: {shown}. Load it into the "
            "model that it was trained with, or create the adapter anew."
        )
