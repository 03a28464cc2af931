"""Language-specific parameters by PEFT: one PEFT adapter for each language."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from peft import (
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from torch import Tensor, nn

from hf_meta_adapters._typing import Language
from hf_meta_adapters.backends._adapter_names import AdapterNames
from hf_meta_adapters.backends.abilities import (
    DividesRows,
    Division,
    ExportsLora,
    MakesSharedParts,
    MergesLanguages,
    RemovesLanguages,
    ReplacesModules,
    RoutesRows,
    SharedPart,
    TakesSharedPart,
)
from hf_meta_adapters.backends.base import Backend
from hf_meta_adapters.backends.peft._bare import check_bare
from hf_meta_adapters.backends.peft._divided_linear import divided_linears, has_linears_alone
from hf_meta_adapters.backends.peft._files import (
    CONFIG,
    LONGEST,
    check_initialisation,
    check_same_config,
    read_config,
    shown,
    write_adapter,
)
from hf_meta_adapters.backends.peft._lora_export import Source, export_stacked
from hf_meta_adapters.backends.peft._merging import prepare_merging, unwrap
from hf_meta_adapters.backends.peft._messages import (
    allows_one_adapter,
    lacks_target,
    without_noise,
)
from hf_meta_adapters.backends.peft._patterns import check_config_patterns
from hf_meta_adapters.backends.peft._routing import routing_in_order
from hf_meta_adapters.backends.peft._shared_part import SWITCHED, PeftSharedPart, leave_copies_out
from hf_meta_adapters.backends.peft._supported import check_bias, check_supported
from hf_meta_adapters.backends.peft._switches import Switches, check_not_nested, originals
from hf_meta_adapters.backends.peft._task import head_tensors, with_task, without_task
from hf_meta_adapters.backends.peft._twin import divided_rows
from hf_meta_adapters.backends.peft._weighted import MergesLora
from hf_meta_adapters.backends.weights_file import read_weights
from hf_meta_adapters.errors import ConfigurationError, UnsupportedModelError

_RESOLVED = ("target_modules", "fan_in_fan_out", "bottleneck_size", "reduction_factor")
_CLASSIFICATION = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")


class PeftBackend(
    Backend,
    MakesSharedParts,
    TakesSharedPart,
    ReplacesModules,
    RoutesRows,
    DividesRows,
    MergesLanguages,
    ExportsLora,
    RemovesLanguages,
    MergesLora,
):
    """One PEFT adapter per language, for any `PeftConfig`.

    With a task type of classification PEFT would give each adapter a head of its own. Across
    languages the head is shared unless `modules_to_save` names it, so such a task type is removed
    from the configuration; prompt methods, which cannot do without, keep it.

    Args:
        model: The transformers model.
        config: The configuration; every language gets a copy of it.

    Raises:
        UnsupportedModelError: If the model has adapters of PEFT already.
        ConfigurationError: If the initialisation of an adapter changes the base model, which other
            languages share.
    """

    name: ClassVar[str] = "peft"
    config: PeftConfig

    def __init__(self, model: nn.Module, config: PeftConfig) -> None:
        super().__init__(model, copy.deepcopy(config))
        check_bare(model)
        check_initialisation(config)
        check_config_patterns(model, config)
        check_supported(config, model, is_theta=False)
        check_bias(config)

        # `TaskType` is an enumeration of strings, and a plain string serves PEFT as well
        if config.task_type in _CLASSIFICATION and not config.is_prompt_learning:
            self.config.task_type = None

        prefix = PEFT_TYPE_TO_PREFIX_MAPPING.get(config.peft_type) or ""
        self._names = AdapterNames(model, [nn.ModuleDict(), nn.ParameterDict()], prefix)
        self._model: PeftModel | None = None
        self._shared: PeftSharedPart | None = None
        self._switches = Switches()

    @property
    def module(self) -> nn.Module:
        """The `PeftModel`, or the model while it has no adapter."""
        if self._model is None:
            return self.base

        return self._model

    def adapter(self, language: Language) -> str:
        """The name of the adapter inside PEFT: the language, unless that could be mistaken."""
        return self._names.of(language)

    def add(self, language: Language) -> None:
        """Create an adapter."""
        # PEFT fills in what it finds, and a configuration that was loaded is in inference mode
        config = copy.deepcopy(self.config)
        config.inference_mode = False
        if self._shared is not None:
            leave_copies_out(config, self.base)

        try:
            with without_noise():
                self._create(language, config)

        except StopIteration as error:
            # from `next(module.parameters())` within PEFT
            raise UnsupportedModelError(self._no_target("a module without parameters.")) from error

        except ValueError as error:
            if lacks_target(error):
                raise UnsupportedModelError(self._no_target(str(error))) from error

            if allows_one_adapter(error):
                raise ConfigurationError(
                    "A method must allow several trained adapters in one model. Found"
                    f" `{type(self.config).__name__}`, for which PEFT raises: {error} Use for"
                    ' example `LoraConfig(target_modules="all-linear")`.'
                ) from error
            raise

        # What PEFT made of the settings for the first language holds for all: "all-linear" would
        # find the copies that a language has of modules.
        for setting in _RESOLVED:
            if hasattr(config, setting):
                setattr(self.config, setting, copy.deepcopy(getattr(config, setting)))

        # sets `requires_grad` on what the method trains of the adapter
        self._peft().set_adapter(self.adapter(language))

        # the adapter may have added layers, and layers that only θ was in may now have both
        self._switches = self._find_switches()

    def activate(self, language: Language) -> None:
        """Name the adapter that the layers use.

        PEFT's own `set_adapter` also sets `requires_grad` to false on all other adapters, which
        would silently never train, so the layers are told directly what it would tell them.
        """
        if self._model is None:
            return

        name = self.adapter(language)
        self._switches.activate(name)

        # PEFT reads these outside of layers; a prompt has no tuner around the base
        self._model.active_adapter = name
        if not self.config.is_prompt_learning:
            self._model.base_model.active_adapter = name

    def remove(self, language: Language, other: Language) -> None:
        """Delete an adapter from all layers, and what PEFT keeps of it beside them."""
        self.activate(other)  # PEFT warns where the adapter is active

        # PEFT hands what is active in a layer on to copies of modules, which take one adapter:
        # θ is active again with the last line
        for layer in self._switches.layers:
            layer._active_adapter = [self.adapter(other)]

        self._peft().delete_adapter(self.adapter(language))
        self._switches = self._find_switches()
        self.activate(other)

    def save(self, language: Language, directory: Path) -> None:
        """Write an adapter with its configuration, as `PeftModel.save_pretrained` does."""
        state = self._state(language)
        is_alone = self._shared is None
        config = with_task(self._config_of(language), self.base, has_head=is_alone)

        # PEFT has a head for each adapter of a classifier, here the one that all share
        head = head_tensors(self.base, config.task_type)
        write_adapter(directory, config, {**head, **state})

    def load(self, language: Language, directory: Path, body: str | None = None) -> None:
        """Read what PEFT or `save` wrote, after a comparison of configuration, names and shapes."""
        # all checks come first: an adapter that is refused leaves the language as it was
        head: dict[str, Tensor] = {}
        if (directory / CONFIG).is_file():
            head = head_tensors(self.base, read_config(directory).task_type)
        weights = read_weights(directory, self._state(language), body, ignored=head)
        check_same_config(self._config_of(language), directory, body)

        set_peft_model_state_dict(self._peft(), weights, adapter_name=self.adapter(language))

    @classmethod
    def saved_config(cls, directory: Path, body: str | None = None) -> PeftConfig:
        """Read `adapter_config.json`; `body` makes its names of modules relative to the body."""
        return without_task(read_config(directory, body))

    @classmethod
    def make_shared_part(cls, model: nn.Module, config: object) -> PeftSharedPart:
        """Put θ into a model as an adapter of PEFT."""
        return PeftSharedPart(model, config)

    def take_shared_part(self, part: SharedPart) -> None:
        """Keep θ active in the layers in which languages have adapters."""
        if not isinstance(part, PeftSharedPart):
            raise ConfigurationError(
                "Language adapters of PEFT work next to a θ of PEFT only. Found a"
                f" `{type(part).__name__}`. Use a PeftConfig for `shared`."
            )
        self._shared = part

    def replaced(self) -> list[nn.Module]:
        """The modules that each language has a copy of."""
        return originals(self._switches)

    def routing(self, languages: Sequence[Language]) -> AbstractContextManager[None] | None:
        """`adapter_names` for every layer of bottleneck adapters and LoRA, also in training."""
        # a name for each row would leave θ out, and `modules_to_save` is not routed
        has_copies = vars(self.config).get("modules_to_save")
        if self._model is None or self._shared is not None or has_copies:
            return None

        method = self.config.peft_type
        is_plain_lora = method == "LORA" and not self.config.use_dora
        if method != "BOTTLENECK" and not is_plain_lora:
            return None

        return routing_in_order(self._switches.layers, [self.adapter(key) for key in languages])

    def dividing(self, language: Language, first: int, rows: int) -> Division | None:
        """Leaves for the first rows in linear layers, or a second adapter where rows are routed."""
        layers, name = self._switches.layers, self.adapter(language)
        if self._model is not None and has_linears_alone(layers, name):
            return divided_linears(layers, name, first, rows)

        return divided_rows(layers, name, first, rows) if self.routing([language]) else None

    def merged(self, language: Language) -> nn.Module:
        """Compute a copy of the model with θ and φ in its weights and no layer of PEFT in it."""
        # merging takes the adapters out of the model, which goes on to be trained
        try:
            twin = copy.deepcopy(self)
            twin.activate(language)
            prepare_merging(twin.base)

            with without_noise():
                if twin._shared is not None:
                    twin._shared.merge()
                model: nn.Module = twin._peft().merge_and_unload(
                    adapter_names=[self.adapter(language)]
                )
            unwrap(model)

        except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
            raise ConfigurationError(
                "Only an adapter that PEFT can add to the weights of the base can be merged, such"
                " as LoRA, (IA)³, LN tuning and module copies. Found"
                f" `{type(self.config).__name__}`: {error} Keep the adapter next to the model:"
                " `save_pretrained`, then `PeftModel.from_pretrained(base, folder,"
                " subfolder=language)`."
            ) from error

        return model

    def export_lora(self, language: Language, directory: Path, base_name: str | None) -> None:
        """Write θ, where it is an adapter, and φ as one LoRA."""
        name = self.adapter(language)
        sources = [Source(name, self._config_of(language), self._state(language))]
        if self._shared is not None:
            sources.insert(0, self._shared.source)

        export_stacked(self.base, sources, directory, base_name)

    def _create(self, language: Language, config: PeftConfig) -> None:
        if self._model is None:
            self._model = get_peft_model(self.base, config, adapter_name=self.adapter(language))
        else:
            self._model.add_adapter(self.adapter(language), config)

    def _peft(self) -> PeftModel:
        if self._model is None:
            raise RuntimeError("The backend has no adapter yet. Call `add` first.")
        return self._model

    def _config_of(self, language: Language) -> PeftConfig:
        return self._peft().peft_config[self.adapter(language)]

    def _find_switches(self) -> Switches:
        layers = [part for part in self._peft().modules() if isinstance(part, SWITCHED)]
        shared: list[nn.Module] = []
        if self._shared is not None:
            shared = self._shared.layers

            check_not_nested(layers)

        return Switches.of(layers, shared, method=type(self.config).__name__)

    def _state(self, language: Language) -> dict[str, Tensor]:
        """The tensors of an adapter under the names of a file."""
        state = self._peft().state_dict(keep_vars=True)
        if self._shared is not None:
            # PEFT selects by names, and θ lies in the same layers
            foreign = {id(tensor) for tensor in self._shared.tensors.values()}
            state = {name: tensor for name, tensor in state.items() if id(tensor) not in foreign}

        return get_peft_model_state_dict(
            self._peft(), state, adapter_name=self.adapter(language), save_embedding_layers=False
        )

    def _no_target(self, reason: str) -> str:
        """What to say if the adapter cannot be attached to any module."""
        # most methods adapt modules without children, such as linear layers
        leaves = {
            name.split(".")[-1]
            for name, part in self.base.named_modules()
            if name and not list(part.children())
        }

        return (
            "The adapter must find modules of the model to attach to. Found, with"
            f" `target_modules={shown(vars(self.config).get('target_modules'))}` in"
            f" `{type(self.base).__name__}`: {reason[:LONGEST]} Set"
            f" `target_modules=[...]` to some of the model's own modules: {sorted(leaves)}."
        )
