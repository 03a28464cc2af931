"""Bottleneck adapters and copies of modules become methods of PEFT, once it is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["register_with_peft"]

METHODS = ("hf_meta_adapters.backends.bottleneck", "hf_meta_adapters.backends.module_copy")
"""The modules that register a method when they are imported."""


def register_with_peft() -> None:
    """Register the methods of this package with PEFT, now or when PEFT is imported.

    Plain `PeftModel.from_pretrained` then loads such adapters after `import hf_meta_adapters`,
    whichever of the two was imported first. PEFT imports torch and transformers; a program that
    never uses it, such as `hf-meta-adapters ls`, does not wait for them.

    Example:
        >>> import hf_meta_adapters  # calls this function
        >>> from peft import get_peft_config
        >>> get_peft_config({"peft_type": "BOTTLENECK"}).__class__.__name__
        'BottleneckConfig'
    """
    if "peft" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterPeft())


def _register() -> None:
    for module in METHODS:
        import_module(module)


class _AfterPeft(MetaPathFinder):
    """Finds `peft` as the other finders do, and adds the registration to the end of its import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "peft":
            return None

        spec = self._found_by_another(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec

        run_module = spec.loader.exec_module

        # Many only ask whether PEFT is installed: the finder stays until PEFT is imported.
        def run_and_register(module: ModuleType) -> None:
            run_module(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _register()

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec

    def _found_by_another(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self:
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    return spec

        return None
