"""What an import brings along, and that the bottleneck adapter is a method of PEFT after it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import hf_meta_adapters
from hf_meta_adapters.imports.lazy_names import lazy_names

ROOT = Path(__file__).resolve().parents[3]
LIBRARIES = {
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "evaluate",
    "huggingface_hub",
    "numpy",
    "pandas",
    "scipy",
    "sklearn",
    "matplotlib",
    "adapters",
}

MUST_NOT = {
    "import hf_meta_adapters": LIBRARIES,
    "import hf_meta_adapters.cli.command": LIBRARIES,
    "from hf_meta_adapters.cli import parse_arguments": LIBRARIES,
    "from hf_meta_adapters import gradient_conflict, learn_language_masks": LIBRARIES
    - {"torch", "numpy"},
    "from hf_meta_adapters import MetaAdapterTrainer": {"evaluate", "matplotlib", "adapters"},
}
"""Statement → libraries that it must not import."""


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("statement", MUST_NOT)
def test_an_import_leaves_what_it_does_not_need(statement: str) -> None:
    found = python(f"import json, sys; {statement}; print(json.dumps(list(sys.modules)))")
    assert set(json.loads(found)) & MUST_NOT[statement] == set()


REGISTERED = """
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as configs
print(configs["BOTTLENECK"].__name__, configs["MODULE_COPY"].__name__)
"""
IMPORTS = {
    "peft first": "import peft; import hf_meta_adapters",
    "peft last, and asked for in between": """
import importlib.util
import hf_meta_adapters
assert importlib.util.find_spec("peft") and importlib.util.find_spec("peft")
import peft.tuners.lora
""",
    "by a part of ours": """
import hf_meta_adapters.backends.bottleneck._tuner
""",
}


@pytest.mark.slow
def test_the_bottleneck_adapter_is_a_method_of_peft() -> None:
    for what, code in IMPORTS.items():
        source = f"{code}\n{REGISTERED}\nimport sys, peft\n"
        said = python(source + "print(sys.meta_path, peft.__spec__.loader)")
        assert said.startswith("BottleneckConfig ModuleCopyConfig\n"), what
        assert "AfterPeft" not in said, what


def type_checked_imports() -> dict[str, str]:
    """Name → module, as a type checker reads it."""
    file = hf_meta_adapters.__file__
    assert file is not None
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    (block,) = [node for node in blocks if ast.unparse(node.test) == "TYPE_CHECKING"]
    homes = {}
    for line in block.body:
        assert isinstance(line, ast.ImportFrom)
        homes |= {alias.name: str(line.module) for alias in line.names}
    return homes


def test_type_checkers_see_what_python_finds() -> None:
    homes = type_checked_imports()
    assert homes == hf_meta_adapters._HOMES
    assert {*homes, "__version__"} == set(hf_meta_adapters.__all__)
    assert set(hf_meta_adapters.__all__) <= set(dir(hf_meta_adapters))

    for name, module in homes.items():
        value = getattr(hf_meta_adapters, name)
        assert value is getattr(sys.modules[module], name)
        assert vars(hf_meta_adapters)[name] is value


def test_rooms_are_found_and_nothing_else() -> None:
    find = lazy_names("hf_meta_adapters", {})
    assert find("diagnostics") is sys.modules["hf_meta_adapters.diagnostics"]
    for name in ("nothing", "__wrapped__", "_private", "gradient_conflict"):
        with pytest.raises(AttributeError, match=f"'hf_meta_adapters' has no attribute '{name}'"):
            find(name)
    with pytest.raises(ImportError, match="cannot import name 'Trainer'"):
        exec("from hf_meta_adapters import Trainer")
