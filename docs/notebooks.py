"""A hook of MkDocs that makes each notebook a page, with its stored outputs.

MkDocs then checks the links of a notebook like those of any page.
"""

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
        markdown, _ = MarkdownExporter().from_notebook_node(notebook)
        return markdown


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
