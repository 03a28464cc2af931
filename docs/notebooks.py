"""A hook of MkDocs that makes each notebook a page, with its stored outputs.

MkDocs then checks the links of a notebook like those of any page.
"""

from html.parser import HTMLParser
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter


class Notebook(File):
    """A notebook that MkDocs reads as the Markdown that nbconvert makes of it."""

    def is_documentation_page(self) -> bool:
        return True

    @property
    def content_string(self) -> str:
        notebook = nbformat.read(Path(self.abs_src_path), as_version=4)
        without_html(notebook)
        markdown, _ = MarkdownExporter().from_notebook_node(notebook)
        return markdown


def without_html(notebook: nbformat.NotebookNode) -> None:
    """Show the progress of a Trainer, which is HTML, by the table in it."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            html = output.get("data", {}).pop("text/html", None)
            if html is not None:
                output.data["text/markdown"] = markdown_table(html)


class Rows(HTMLParser):
    """Collects the cells of a table, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.in_cell = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td"):
            self.in_cell = False

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.rows[-1][-1] += data.strip()


def markdown_table(html: str) -> str:
    """The one table of some HTML, as Markdown."""
    parser = Rows()
    parser.feed(html)
    header, *rows = parser.rows

    lines = [header, ["---:"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for file in list(files):
        if not file.src_uri.endswith(".ipynb"):
            continue

        page = Notebook(
            file.src_uri, config.docs_dir, config.site_dir, config.use_directory_urls
        )
        files.remove(file)
        files.append(page)
    return files
