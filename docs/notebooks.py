"""A hook of MkDocs: a notebook is a page of the site, with what is stored in it, and its links are checked."""

from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter


class Notebook(File):
    """A notebook that MkDocs takes for the Markdown that nbconvert makes of it."""

    def is_documentation_page(self) -> bool:
        return True

    @property
    def content_string(self) -> str:
        return MarkdownExporter().from_notebook_node(
            nbformat.read(Path(self.abs_src_path), as_version=4)
        )[0]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            files.remove(file)
            files.append(
                Notebook(file.src_uri, config.docs_dir, config.site_dir, config.use_directory_urls)
            )
    return files
