"""The site builds without a warning, and a browser finds every page readable, wide and narrow."""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from tests.docs.site import BROWSER, WIDTHS, build, html, look

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(
            find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings", "nbconvert")
        ),
        reason="NOT CHECKED: the documentation cannot be built; the extra `docs` is absent",
    ),
]
FOOTER = re.compile(r'class="md-footer__link md-footer__link--(prev|next)"')
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="NOT CHECKED IN A BROWSER: no chromium or chrome is there"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("built") / "site")


def test_every_page_is_built(site: Path) -> None:
    sources = [
        path.relative_to(ROOT / "docs")
        for path in (ROOT / "docs").rglob("*")
        if path.suffix in (".md", ".ipynb")
    ]
    expected = {
        (
            f"/{path.parent.as_posix()}/index.html".replace("/./", "/")
            if path.stem == "index"
            else f"/{path.with_suffix('').as_posix()}/index.html"
        )
        for path in sources
    }
    assert set(html(site)) == expected


def test_a_warning_is_an_error(tmp_path: Path) -> None:
    for name in ("docs", "hf_meta_adapters"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".mkdocs.yml", tmp_path)
    with (tmp_path / "docs" / "index.md").open("a", encoding="utf-8") as page:
        page.write("\n[Nowhere](nowhere.md)\n")
    with pytest.raises(RuntimeError, match=r"'nowhere\.md', but the target is not found"):
        build(tmp_path / "site", root=tmp_path)


def test_links_between_pages_are_those_of_the_site(site: Path) -> None:
    text = (site / "tutorials" / "first_meta_adapter" / "index.html").read_text(encoding="utf-8")
    assert 'href="../../explanation/outer_step/"' in text
    assert ".ipynb" not in text.split("<article")[1]


def test_a_notebook_is_shown_without_raw_html(site: Path) -> None:
    page = (site / "tutorials" / "first_meta_adapter" / "index.html").read_text(encoding="utf-8")
    article = page.split("<article")[1].split("</article>")[0]
    assert "progress" not in article
    assert "&lt;table" not in article
    assert article.count("<table>") == 2  # the losses of both trainings
    assert re.search(r"Training Loss</th>.*?<td[^>]*>30</td>\s*<td[^>]*>[\d.]+</td>", article, re.S)


def test_every_page_leads_to_its_neighbours(site: Path) -> None:
    pages = {page: (site / page.lstrip("/")).read_text(encoding="utf-8") for page in html(site)}
    ends = [page for page, text in pages.items() if len(FOOTER.findall(text)) < 2]
    assert len(ends) == 2
    assert all(FOOTER.findall(pages[page]) for page in ends)


def test_a_reader_may_choose_light_or_dark(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'data-md-color-scheme="(\w+)"', home)) >= {"default", "slate"}


def test_the_reference_shows_the_source(site: Path) -> None:
    model = (site / "reference" / "model" / "index.html").read_text(encoding="utf-8")
    assert "hf_meta_adapters/modeling/factory.py" in model


@needs_browser
def test_a_browser_finds_nothing_wrong(site: Path, tmp_path: Path) -> None:
    report, console = look(site, tmp_path)
    assert len(report) == len(html(site)) * len(WIDTHS)
    assert {page: found for page, found in report.items() if found} == {}
    assert console == []


BAD = """<!doctype html><html><head><title></title></head><body><article>
<h2>Two</h2><h4 style="width: 3000px">Four</h4><p style="color: #999">Pale</p><img src="absent.png">
<div class="doc-contents"><div class="md-typeset__scrollwrap"
style="width: 9px; overflow: auto">sideways</div></div>
<a href="x"></a><script src="https://example.org/x.js"></script></article>
<script>console.error("no")</script></body></html>"""


@needs_browser
def test_the_browser_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text(BAD, encoding="utf-8")
    report, console = look(tmp_path / "site", tmp_path)
    wide, phone = (set(report[f"/index.html at {width}"]) for width in WIDTHS.values())
    assert wide - phone == {"contrast"}
    assert phone >= {
        "title",
        "language of the page",
        "one h1",
        "heading order",
        "alt text",
        "picture",
        "name of a link",
        "overflow",
        "sideways scrolling",
        "request to another host",
    }
    assert any("no" in line for line in console)
