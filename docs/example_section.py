"""A griffe extension: the reference shows the `Example:` of a docstring as code."""

from typing import Any

import griffe


class ExampleSection(griffe.Extension):
    """Rename `Example:` to `Examples:`, the only name that griffe knows."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section in the docstring of an object."""
        docstring = obj.docstring
        if docstring is not None:
            docstring.value = docstring.value.replace("\nExample:\n", "\nExamples:\n")
