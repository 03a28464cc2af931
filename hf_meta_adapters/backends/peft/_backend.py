"""Language-specific parameters by PEFT: one PEFT adapter for each language."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from peft import (
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.tuners.ln_tuning.layer import LNTuningLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends.abilities import (
    MergesLanguages,
    ReplacesModules,
    RoutesRows,
    TakesSharedPart,
)
from hf_meta_adapters.backends.base import Backend
from hf_meta_adapters.backends.module_copy._layer import ModuleCopyLayer
from hf_meta_adapters.backends.peft._files import (
    check_initialisation,
    check_same_config,
    read_config,
    write_adapter,
)
from hf_meta_adapters.backends.peft._shared_part import ADAPTER, PeftSharedPart, without_noise
from hf_meta_adapters.backends.rows import naming_rows
from hf_meta_adapters.backends.weights_file import read_weights
from hf_meta_adapters.errors import ConfigurationError, UnsupportedModelError

_HEADS = {"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"}
_PREFIX = "language_"
_TAG = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]+)*")
_ONE_AT_A_TIME = (LNTuningLayer, ModuleCopyLayer, AuxiliaryTrainingWrapper)


class PeftBackend(Backend, TakesSharedPart, ReplacesModules, RoutesRows, MergesLanguages):
    """One PEFT adapter per language, for any `PeftConfig`.

    A task type of classification would make PEFT give each adapter a head of its own. Across
    languages the head is shared unless `modules_to_save` names it, so such a task type is left out
    of the configuration; prompt methods, which cannot do without, keep it.

    Args:
        model: The transformers model.
        config: The configuration; every language gets a copy of it.

    Raises:
        UnsupportedModelError: If the model has adapters of PEFT already.
        ConfigurationError: If the way to initialise an adapter changes the base model, which other
            languages share.
    """

    name: ClassVar[str] = "peft"

    def __init__(self, model: nn.Module, config: PeftConfig) -> None:
        super().__init__(model, copy.deepcopy(config))
        _check_bare(model)
        check_initialisation(config)
        task = getattr(config.task_type, "value", config.task_type)
        if task in _HEADS and not config.is_prompt_learning:
            self.config.task_type = None
        self._model: PeftModel | None = None
        self._shared: PeftSharedPart | None = None
        self._switches: list[tuple[Any, list[str]]] = []
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
            with without_noise():
                self._create(language, config)
        except StopIteration as error:  # where PEFT asks for the first parameter of a module
            raise UnsupportedModelError(self._no_target("a module without parameters.")) from error
        except ValueError as error:
            if "arget module" in str(error):
                raise UnsupportedModelError(self._no_target(str(error))) from error
            if "only 1" in str(error):
                raise ConfigurationError(
                    "A method must allow several trained adapters in one model. Found"
                    f" `{type(self.config).__name__}`, "
                    f'of which PEFT says: "{error}" Write for example'
                    ' `LoraConfig(target_modules="all-linear")`.'
                ) from error
            raise
        self._peft().set_adapter(self.adapter(language))  # marks what the method trains of it
        self._find_switches()

    def activate(self, language: Language) -> None:
        """Name the adapter that the layers use.

        PEFT's own `set_adapter` also turns `requires_grad` off on all other adapters, which then
        silently never train, so the layers are told directly what it would tell them.
        """
        if self._model is None:
            return
        name = self.adapter(language)
        for part, shared in self._switches:
            part._active_adapter = [*shared, name]
        self._model.active_adapter = name
        if not self.config.is_prompt_learning:
            self._model.base_model.active_adapter = name

    def save(self, language: Language, directory: Path) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json`, as `PeftModel.save_pretrained` does."""
        write_adapter(
            directory, self._peft().peft_config[self.adapter(language)], self._state(language)
        )

    def load(self, language: Language, directory: Path, body: str | None = None) -> None:
        """Read an adapter that PEFT or `save` wrote, after comparing configuration, names and shapes."""
        found = read_weights(directory, self._state(language), body)
        check_same_config(self._peft().peft_config[self.adapter(language)], directory, body)
        set_peft_model_state_dict(self._peft(), found, adapter_name=self.adapter(language))

    @classmethod
    def saved_config(cls, directory: Path, body: str | None = None) -> PeftConfig:
        """Read `adapter_config.json`; for another class, names of modules are taken relative to the body."""
        return read_config(directory, body)

    def share(self, config: PeftConfig) -> PeftSharedPart:
        """Put θ into the model as an adapter of PEFT."""
        self._shared = PeftSharedPart(self.base, config)
        return self._shared

    def replaced(self) -> list[nn.Module]:
        """The originals of what LN tuning, module copies and `modules_to_save` keep a copy of for each language."""
        found: list[nn.Module] = []
        for part, _ in self._switches:
            if isinstance(part, (LNTuningLayer, ModuleCopyLayer)):
                found.append(part.base_layer)
            elif isinstance(part, ModulesToSaveWrapper):
                found.append(part.original_module)
        return found

    def routing(self, adapters: Sequence[Language]) -> AbstractContextManager[Any] | None:
        """`adapter_names` for every layer of the bottleneck adapter and of LoRA, in training, too."""
        kind = getattr(self.config.peft_type, "value", self.config.peft_type)
        if (
            self._model is None
            or self._shared is not None
            or getattr(self.config, "modules_to_save", None)
        ):
            return None
        if kind == "BOTTLENECK" or (kind == "LORA" and not self.config.use_dora):
            return naming_rows(
                [part for part, _ in self._switches], [self.adapter(one) for one in adapters]
            )
        return None

    def merged(self, adapter: Language) -> nn.Module:
        """A copy of the model with θ and φ in its weights and no layer of PEFT in it."""
        twin = copy.deepcopy(self)
        twin.activate(adapter)
        try:
            with without_noise():
                if twin._shared is not None:
                    twin._shared.merge()
                model: nn.Module = twin._peft().merge_and_unload(
                    adapter_names=[self.adapter(adapter)]
                )
        except (AttributeError, NotImplementedError, ValueError) as error:
            raise ConfigurationError(
                "Only an adapter that PEFT can add to the weights of the base can be merged, such"
                " as LoRA, (IA)³, LN tuning and module copies. Found"
                f" `{type(self.config).__name__}`: {error} Keep the adapter beside the model:"
                " `save_pretrained`, then `PeftModel.from_pretrained(base, folder,"
                " subfolder=language)`."
            ) from error
        return model

    def adapter(self, language: Language) -> str:
        """The name of the adapter inside PEFT: the language, unless PEFT could mistake that name for something else.

        PEFT tells adapters apart by the components of the names of tensors. So a name is kept only
        if it is a language tag, which are no names of modules, and if it is no part of the model's
        own names ("wo", Wolof, in T5), no attribute of a module dictionary ("to", Tongan) and no
        part of the method's prefix ("lo", Lao, in "lora_").
        """
        prefix = PEFT_TYPE_TO_PREFIX_MAPPING.get(self.config.peft_type) or ""
        taken = (
            hasattr(nn.ModuleDict(), language)
            or hasattr(nn.ParameterDict(), language)
            or language in prefix
        )
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

    def _find_switches(self) -> None:
        """The layers that a change of language concerns, each with the name of θ if that is active in it, too."""
        kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        shared = [] if self._shared is None else self._shared.layers
        own = [
            p
            for p in self._peft().modules()
            if isinstance(p, kinds) and not any(p is one for one in shared)
        ]
        self._switches = [(part, []) for part in own]
        for part in shared:
            if part._get_available_adapters() == {ADAPTER}:
                part._active_adapter = [ADAPTER]
                continue
            if isinstance(part, _ONE_AT_A_TIME):
                raise ConfigurationError(
                    "θ and φ must not both be copies of one module, of which one can be active."
                    f" Found a `{type(part).__name__}` with copies for `shared` and for"
                    f" `{type(self.config).__name__}`. Write other `target_modules` or"
                    " `modules_to_save` in one of them."
                )
            self._switches.append((part, [ADAPTER]))

    def _state(self, language: Language) -> dict[str, Tensor]:
        """The tensors of an adapter under the names of a file; those of θ, in the same layers, are none of them."""
        foreign = (
            set()
            if self._shared is None
            else {id(tensor) for tensor in self._shared.tensors.values()}
        )
        state = self._peft().state_dict(keep_vars=True)
        state = {name: tensor for name, tensor in state.items() if id(tensor) not in foreign}
        return get_peft_model_state_dict(
            self._peft(), state, adapter_name=self.adapter(language), save_embedding_layers=False
        )

    def _no_target(self, found: str) -> str:
        leaves = {
            name.split(".")[-1]
            for name, part in self.base.named_modules()
            if not list(part.children()) and name
        }
        return (
            "The adapter must find modules of the model to attach to. Found, with"
            f" `target_modules={getattr(self.config, 'target_modules', None)!r}` in"
            f" `{type(self.base).__name__}`: {found} Write `target_modules=[...]` with some of the"
            f" model's own modules: {sorted(leaves)}."
        )


def _check_bare(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(
            f"The base model must be a module. Found {model!r} of type `{type(model).__name__}`."
            " Load it first, for example by `AutoModelForMaskedLM.from_pretrained(...)`."
        )
    if any(isinstance(part, (BaseTunerLayer, PeftModel)) for part in model.modules()):
        raise UnsupportedModelError(
            "The base model must have no adapters of PEFT yet. Found some in"
            f" `{type(model).__name__}`. Write `model.merge_and_unload()` for a PeftModel, or"
            " `add_language` for a model with languages."
        )
