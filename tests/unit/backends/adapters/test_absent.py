"""Without the library `adapters`, a model that needs it says what to install."""

from __future__ import annotations

import sys

import pytest

from hf_meta_adapters.backends.registry import backend_named
from hf_meta_adapters.errors import ConfigurationError


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_backend", "_configs", "_files", "_models"):
        monkeypatch.delitem(
            sys.modules, f"hf_meta_adapters.backends.adapters.{name}", raising=False
        )
    monkeypatch.setitem(sys.modules, "adapters", None)
    with pytest.raises(
        ConfigurationError, match=r'Found no `adapters`.*pip install "hf-meta-adapters\[adapters\]"'
    ):
        backend_named("adapters")
