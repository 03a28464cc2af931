"""The notebooks of the documentation.

`python -m tests.docs.notebooks` runs them and stores their outputs.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from tests.docs.pages import ROOT


def notebooks() -> list[Path]:
    return sorted(
        path for path in (ROOT / "docs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
    )


def run(path: Path, folder: Path) -> Any:
    """Run a notebook in its own kernel, which starts in `folder`; return it with its outputs.

    Progress bars and warnings, which libraries write to stderr, are dropped: they name files of one
    machine.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )
    NotebookClient(
        notebook,
        coalesce_streams=True,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
        timeout=240,
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    notebook.metadata.language_info = {"name": "python"}  # without the version that ran it
    return notebook


if __name__ == "__main__":
    import nbformat

    for notebook in notebooks():
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "recipes").symlink_to(ROOT / "recipes")
            nbformat.write(run(notebook, Path(folder)), notebook)
