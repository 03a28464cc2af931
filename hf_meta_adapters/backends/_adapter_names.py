"""What the adapter of a language is called inside an adapter library."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from hf_meta_adapters._typing import Language

_PREFIX = "language_"
_TAG = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]+)*")


class AdapterNames:
    """Names of adapters that a library cannot mistake for anything else in a model.

    The libraries tell adapters apart by the components of the names of tensors, and keep them in
    dictionaries of modules, whose attributes are taken. So an adapter has the name of its language
    only if that is

    - a language tag, which no module is called by, and no component of the model's own names (`wo`,
      Wolof, is one in T5),
    - no attribute of the dictionaries (`to`, Tongan, is one), and
    - no part of the method's prefix (`lo`, Lao, is one of `lora_`).

    Args:
        model: The model before it has adapters.
        containers: The dictionaries in which the library keeps adapters.
        prefix: The prefix of the names of the method's tensors; "" if the library has none.
    """

    def __init__(
        self,
        model: nn.Module,
        containers: Sequence[nn.ModuleDict | nn.ParameterDict],
        prefix: str = "",
    ) -> None:
        # names of modules as well, some of which hold no tensors
        names = [*model.state_dict(), *(name for name, _ in model.named_modules())]
        self._components = {part for name in names for part in name.split(".")}
        self._containers = tuple(containers)
        self._prefix = prefix

    def of(self, language: Language) -> str:
        """The name of the adapter of a language."""
        name = language
        if not _TAG.fullmatch(language) or self._is_taken(language):
            name = f"{_PREFIX}{language}"

        # again for a model with a module called `language_…`
        if name in self._components:
            name = f"{_PREFIX}{name}"

        return name

    def _is_taken(self, language: Language) -> bool:
        if language in self._prefix:
            return True

        # the dictionaries refuse keys that they have attributes for, on the class or the instance
        return any(hasattr(container, language) for container in self._containers)
