import json
import re
import sys
from base64 import b64decode
from html import escape
from html.parser import HTMLParser

import pytest

from hf_meta_adapters.diagnostics import DiagnosticReport, ReportSection, interference_report
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.results._html import markdown_to_html
from hf_meta_adapters.results.tables import markdown_table

RESULT = interference_report(
    {"en": {"<ner>": 80.0, "pos": 1.0}, "te": {"<ner>": 70.0}},
    {"en": {"<ner>": 79.0, "pos": 2.0}, "te": {"<ner>": 71.0}},
    metric="F1 & co",
)


class Reader(HTMLParser):
    """Collects cells of tables, sources of pictures, and checks that every element is closed in
    order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.pictures: list[str] = []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.pictures.append(dict(attributes)["src"])
        elif tag != "meta":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def report(**pictures):
    sections = {
        "interference": ReportSection("What <it> costs", "Above 0: worse.", RESULT, pictures)
    }
    return DiagnosticReport("A & B", ("Telugu gains.",), sections, {"model": "<m>"})


def test_the_page_holds_the_tables_and_pictures_of_its_results(tmp_path):
    report(costs=RESULT.plot, costs_again=RESULT.plot).save(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("costs.png", "costs_again.png", "report.html", "report.json", "report.md")
    ]
    page = (folder / "report.html").read_text(encoding="utf-8")
    found = read(page)
    assert found.rows[0] == ["language", "task", "monolingual", "joint", "interference"]
    assert ["en", "<ner>", "80.000", "79.000", "+1.000"] in found.rows
    assert ["mean", "pos", "", "", "-1.000"] in found.rows
    pictures = [
        b64decode(source.removeprefix("data:image/png;base64,")) for source in found.pictures
    ]
    assert pictures == [(folder / name).read_bytes() for name in ("costs.png", "costs_again.png")]
    assert "<h2>What &lt;it&gt; costs</h2>" in page
    assert "<li>model: &lt;m&gt;</li>" in page
    assert "http" not in page.replace("http-equiv", "")
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert content["interference"] == RESULT.to_dict()
    assert content["findings"] == ["Telugu gains."]
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert RESULT.to_markdown() in text
    assert "![Costs again](costs_again.png)" in text


class Verdict:
    def to_dict(self):
        return {"headline": "Telugu loses."}

    def to_markdown(self):
        return "**Telugu loses.**\n\n- by <b> much"


def test_the_verdict_comes_first_in_every_form(tmp_path):
    plain = report()
    DiagnosticReport("A", plain.findings, plain.sections, {}, Verdict()).save(tmp_path)

    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content["verdict"] == {"headline": "Telugu loses."}
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# A\n\n**Telugu loses.**\n\n- by <b> much\n\n- Telugu gains.")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    read(page)
    assert "<h1>A</h1>\n<p><strong>Telugu loses.</strong></p>" in page
    assert "<li>by &lt;b&gt; much</li>" in page
    assert page.index("Telugu loses") < page.index("Telugu gains") < page.index("<h2>")


def test_a_report_without_findings_has_no_empty_list(tmp_path):
    plain = report()
    DiagnosticReport("A", (), plain.sections).save(tmp_path)
    assert (
        "<ul></ul>" not in (tmp_path / "report.html").read_text(encoding="utf-8").split("<h2>")[0]
    )
    assert "verdict" not in json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))


def test_two_pictures_of_one_name_are_refused(tmp_path):
    section = report(costs=RESULT.plot).sections["interference"]
    with pytest.raises(ConfigurationError, match="different names"):
        DiagnosticReport("A", (), {"one": section, "two": section}).save(tmp_path)


def test_every_cell_of_a_table_comes_through():
    table = markdown_table(["a", "", "c"], [["**x**", "", "<1>"], ["", "y", ""]])
    assert read(markdown_to_html(table)).rows == [["a", "", "c"], ["x", "", "<1>"], ["", "y", ""]]
    assert markdown_to_html("a\nb\n\n**c**") == "<p>a\nb</p>\n<p><strong>c</strong></p>"


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<b onclick=x>",
        "&lt;b&gt; & &#60;b&#62;",
        "[a](javascript:alert(1))",
        "![a](http://b)",
        "[a]",
        "<http://b>",
        "<a@b.c>",
        "\"a\" 'b'",
        "`a` *b* __c__ \\* <!-- d -->",
    ],
)
def test_text_of_users_stays_text(text):
    table = markdown_table(["a", "b"], [[text, "1"], ["x", text]])
    page = markdown_to_html(f"{table}\n\nScores: {text}.\n\n[a]: http://b")
    assert read(page).rows == [["a", "b"], [text, "1"], ["x", text]]
    assert set(re.findall(r"<(\w+)", page)) == {"table", "thead", "tbody", "tr", "th", "td", "p"}
    assert f"<p>Scores: {escape(text)}.</p>" in page


def test_without_the_package_markdown_the_extra_is_named_and_nothing_is_written(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "markdown", None)
    with pytest.raises(ConfigurationError, match=r"package Markdown.*hf-meta-adapters\[plots\]"):
        report(costs=RESULT.plot).save(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
