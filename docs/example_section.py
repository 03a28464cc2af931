"""Lets the reference show an `Example:` of a docstring as code, as it does an `Examples:`."""

from typing import Any

import griffe


class ExampleSection(griffe.Extension):
    """Renames the section as griffe calls it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section in the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
