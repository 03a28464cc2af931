"""The unmodified client of the Hub in front of a `HubServer`, in this process or in a fresh one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import huggingface_hub
import pytest
import transformers

from tests.hub_server import HubServer

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "hf_annas_token"
_BLOCKED = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_meta_adapters":
            raise ModuleNotFoundError("hf_meta_adapters is uninstalled")
sys.meta_path.insert(0, Absent())
"""


def connect(
    hub: HubServer, folder: Path, patch: pytest.MonkeyPatch, token: str | None = TOKEN
) -> None:
    """Let the client of this process speak to `hub`, with a cache and a token file of its own in
    `folder`.
    """
    constants = huggingface_hub.constants
    values = {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,  # that storage has a protocol of its own, in a binary library
        "HF_HUB_CACHE": str(folder / "cache"),
        "HF_TOKEN_PATH": str(folder / "token"),
        "HF_HUB_ETAG_TIMEOUT": 5,
    }
    for name, value in values.items():
        patch.setattr(constants, name, value)
    patch.setattr(
        huggingface_hub.file_download,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        constants.HUGGINGFACE_CO_URL_TEMPLATE,
        False,
    )
    patch.setattr(
        huggingface_hub.hf_api.api, "endpoint", hub.endpoint
    )  # of the functions without a client
    for name, value in {
        "_is_offline_mode": False,
        "TRANSFORMERS_CACHE": values["HF_HUB_CACHE"],
    }.items():
        if hasattr(transformers.utils.hub, name):  # of transformers 4, read once
            patch.setattr(transformers.utils.hub, name, value)
    patch.setattr(
        transformers.utils.hub, "_hf_api", None, raising=False
    )  # of transformers 5, made once
    patch.setenv("HF_TOKEN", token) if token else patch.delenv("HF_TOKEN", raising=False)
    (getattr(huggingface_hub.utils, "reset_sessions", None) or huggingface_hub.close_session)()


def disconnect() -> None:
    """Forget connections that were made while another server, or offline mode, was set."""
    (getattr(huggingface_hub.utils, "reset_sessions", None) or huggingface_hub.close_session)()


def run(
    hub: HubServer, code: str, folder: Path, *, installed: bool = True, token: str | None = None
) -> str:
    """What `code` prints in a fresh process, with an empty cache in `folder` and a real
    `HF_ENDPOINT`.
    """
    settings = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(folder / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        **({"HF_TOKEN": token} if token else {}),
    }
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "TRANSFORMERS_"))
    }
    source = ("" if installed else _BLOCKED) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**kept, **settings},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
