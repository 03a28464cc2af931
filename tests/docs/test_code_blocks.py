"""Every Python block of README.md and docs/ runs.

A page runs in a fresh folder, without a network, its blocks in order.
"""

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.docs.notebooks import notebooks
from tests.docs.pages import FENCE, NEEDS, ROOT, Block, execute, pages, python_blocks
from tests.hub_client import connect, disconnect
from tests.hub_server import HubServer

WIDEST_CODE = 88

# How many blocks a page may leave out. Give the reason for each.
NOT_EXECUTED: dict[str, int] = {
    "docs/how-to/command_line.md": 1,  # it loads what the commands of the page have published
    "docs/how-to/large_models.md": 1,  # a 4-bit base needs a CUDA device
    "docs/how-to/small_llm.md": 1,  # it reads a package of 92 MB
}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", pages(), ids=name)
def test_the_blocks_of_a_page_run(
    page: Path, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop)
    monkeypatch.setattr(sys, "argv", [page.name])
    text, namespace = page.read_text(encoding="utf-8"), {"__name__": "__main__"}
    for package in NEEDS.findall(text):
        pytest.importorskip(package, reason=f"NOT CHECKED: the extra `{package}` is absent")
    with hub_of(page, text, workshop, monkeypatch):
        for block in python_blocks(text):
            if block.not_executed is None:
                execute(block, page, namespace)


@contextmanager
def hub_of(page: Path, text: str, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hub in memory with the user `anna` logged in, for a page that asks for one."""
    if "<!-- needs a Hub -->" not in text:
        yield
        return
    with HubServer() as hub, patch.context() as inner:
        connect(hub, folder / "hub", inner)
        yield
    disconnect()


@pytest.mark.parametrize(
    "line",
    [
        'transformers.AutoModelForCausalLM, "meta-llama/Llama-3.2-1B"',
        'transformers.AutoModelForSeq2SeqLM, "google/mt5-small"',
    ],
)
def test_the_readme_runs_with_another_model_on_one_line(
    line, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop)
    page, namespace = ROOT / "README.md", {"__name__": "__main__"}
    text = page.read_text(encoding="utf-8")
    assert f"`auto_class, name = {line}`" in text or f"`{line}`" in text  # it says so itself
    swapped = text.replace('transformers.AutoModelForMaskedLM, "FacebookAI/xlm-roberta-base"', line)
    assert sum(a != b for a, b in zip(text.splitlines(), swapped.splitlines(), strict=True)) == 1
    for block in python_blocks(swapped):
        execute(block, page, namespace)
    assert (
        type(namespace["family"].base_model).__name__
        == type(namespace["base"]).__name__
        != "XLMRobertaForMaskedLM"
    )
    assert namespace["logits"].isfinite().all()


def wide_lines(text: str) -> list[str]:
    """The lines of code that are wider than a page shows; a citation is as `citation()` has it."""
    language: str | None = None
    wide = []
    for line in text.splitlines():
        if match := FENCE.match(line):
            language = match["language"] if language is None else None
        elif language not in (None, "bibtex", "text") and len(line) > WIDEST_CODE:
            wide.append(line)
    return wide


@pytest.mark.parametrize("page", pages(), ids=name)
def test_code_fits_on_its_page(page: Path) -> None:
    assert wide_lines(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", notebooks(), ids=name)
def test_code_of_a_notebook_fits_on_its_page(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [line for cell in cells if cell["cell_type"] == "code" for line in cell["source"]]
    assert [line for line in code if len(line.rstrip()) > WIDEST_CODE] == []


def test_wide_code_is_found() -> None:
    wide = "x = " + "1" * 85
    text = f"{wide}\n\n```bash\n{wide}\n{wide[:-1]}\n```\n{wide}\n```bibtex\n{wide}\n```\n"
    assert wide_lines(text) == [wide]


def test_what_is_not_executed_is_counted_and_has_a_reason() -> None:
    left_out: dict[str, int] = {}
    for page in pages():
        for block in python_blocks(page.read_text(encoding="utf-8")):
            if block.not_executed is not None:
                assert block.not_executed, (
                    f"{name(page)}:{block.line}: add the reason, <!-- not executed: the reason -->"
                )
                left_out[name(page)] = left_out.get(name(page), 0) + 1
    assert left_out == NOT_EXECUTED


PAGE = """Text.

```python
one = 1
```

    ```py title="indented"
    if one:
        two = one + 1
    ```

<!-- not executed: needs a GPU -->

```python
raise SystemExit
```

```bash
python
```

```pycon
>>> two
2
>>> three = 3
```

~~~~python
shown = '''
```python
1 / 0
```
'''
four = three + one
~~~~
"""


def test_blocks_are_found() -> None:
    blocks = list(python_blocks(PAGE))
    assert [block.line for block in blocks] == [4, 8, 15, 23, 29]
    assert [block.not_executed for block in blocks] == [None, None, "needs a GPU", None, None]
    assert blocks[1].code == "if one:\n    two = one + 1"


def test_blocks_share_a_namespace() -> None:
    namespace: dict[str, object] = {}
    for block in python_blocks(PAGE):
        if block.not_executed is None:
            execute(block, Path("page.md"), namespace)
    assert namespace["four"] == 4


@pytest.mark.parametrize("code", ["1 / 0", ">>> 1 / 0", ">>> 1 + 1\n3"])
def test_a_failing_block_fails(code: str) -> None:
    with pytest.raises(Exception, match=r"division|DocTest"):
        execute(Block(code, 7), Path("page.md"), {})


def test_a_traceback_names_the_line_of_the_page() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        execute(Block("x = 1\nx / 0", 7), Path("page.md"), {})
    frame = traceback.extract_tb(caught.tb)[-1]
    assert (frame.filename, frame.lineno) == ("page.md", 8)
