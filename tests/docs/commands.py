"""Commands as a page prints them, and their execution by a user who has the wheel and no clone."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.docs.pages import ROOT
from tests.hub_client import TOKEN
from tests.hub_server import HubServer

LIMIT = 500  # seconds; a command takes a tenth of it on an idle machine


def bash_blocks(page: str) -> list[str]:
    """The blocks of a page below docs/ that are fenced as `bash`, in order."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^```bash\n(.+?)^```", text, re.MULTILINE | re.DOTALL)


def environment(installed: Path, home: Path, hub: HubServer, token: str = TOKEN) -> dict[str, str]:
    """That of a user of the Hub `hub` with the wheel in `installed`."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "TRANSFORMERS_", "ACCELERATE_", "PYTHON"))
    }
    own = {
        "PATH": os.pathsep.join([str(installed / "bin"), kept["PATH"]]),
        "PYTHONPATH": str(installed),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return {**kept, **own}


def run(command: list[str], folder: Path, variables: dict[str, str]) -> str:
    """What a command prints, errors included."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout
