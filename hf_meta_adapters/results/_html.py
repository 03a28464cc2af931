"""HTML that holds no markup but its own, whatever the text it is made from."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from hf_meta_adapters.errors import ConfigurationError

if TYPE_CHECKING:
    from markdown import Markdown

__all__ = ["bullet_list", "markdown_to_html", "page", "paragraph", "picture", "section_heading"]

# The content policy keeps a page from fetching anything, whatever is in it.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 52rem;
  margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }}
h1 {{ font-size: 1.6rem; line-height: 1.2; }}
h2 {{ font-size: 1.25rem; margin-top: 2.5rem; }}
table {{ display: block; width: max-content; max-width: 100%; overflow-x: auto;
  border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid #d5d5d5; padding: 0.25rem 0.6rem; white-space: nowrap; }}
@media (max-width: 30rem) {{ table {{ font-size: 0.85rem; }} th, td {{ padding: 0.2rem 0.35rem; }}
  ul, ol {{ padding-left: 1.25rem; }} }}
figure {{ margin: 1rem 0; }}
img {{ max-width: min(100%, 42rem); height: auto; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def page(title: str, body: Iterable[str]) -> str:
    """Return a page that needs no network and no other file.

    Args:
        title: The title, as text.
        body: Its parts, as HTML.

    Returns:
        The HTML.
    """
    return _PAGE.format(title=escape(title), body="\n".join(body))


def section_heading(text: str) -> str:
    """Return a heading."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{escape(text)}</p>"


def bullet_list(items: Iterable[str]) -> str:
    """Return a list."""
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def picture(caption: str, png: bytes) -> str:
    """Return a picture that is part of the page.

    Args:
        caption: What it shows, for readers who do not see it.
        png: The file.

    Returns:
        The HTML.
    """
    data = b64encode(png).decode()
    return f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}"></figure>'


def markdown_to_html(text: str) -> str:
    r"""Return the tables, paragraphs and bold words of a Markdown text as HTML.

    Everything else in a line stays text: HTML, links and images in a name that a user chose must
    not come alive in a report.

    Args:
        text: Markdown, such as a result's `to_markdown()`.

    Returns:
        The HTML.

    Raises:
        ConfigurationError: If the package Markdown is not installed.

    Example:
        >>> markdown_to_html("**F1** of <b>\n\n[a](http://b)")
        '<p><strong>F1</strong> of &lt;b&gt;</p>\n<p>[a](http://b)</p>'
    """
    # Escaped before the conversion, which passes HTML on but leaves the entities as they are.
    return _converter().convert(escape(text))


def _converter() -> Markdown:
    """Return a converter that knows tables, and bold as the only mark inside a line."""
    try:
        from markdown import Markdown
        from markdown.inlinepatterns import SimpleTagInlineProcessor
        from markdown.treeprocessors import InlineProcessor
        from markdown.util import Registry
    except ImportError as error:
        raise ConfigurationError(
            "A report needs the package Markdown for its page. Found no such package. Install it"
            " with `pip install hf-meta-adapters[plots]`."
        ) from error

    converter = Markdown(extensions=["tables"])
    # A list of what is allowed, since a later version of the library may know further marks. The
    # step that applies them takes its list when it is made, hence a new one under the same name.
    converter.inlinePatterns = Registry()
    bold = SimpleTagInlineProcessor(r"(\*\*)(.+?)\1", "strong")
    converter.inlinePatterns.register(bold, "strong", priority=0)
    converter.treeprocessors.register(InlineProcessor(converter), "inline", priority=20)
    return converter
