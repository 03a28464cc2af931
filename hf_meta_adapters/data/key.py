"""The address of one example."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

from hf_meta_adapters._typing import Language

Role: TypeAlias = Literal["train", "meta"]
"""What an example is for: the training loss, or the validation loss of the meta-gradient."""


class Key(NamedTuple):
    """One example of a step.

    Attributes:
        role: What it is for.
        language: Its language.
        index: Its row, or its running position in a streaming dataset.
        visit: How often the row was drawn before. A collator that draws masks draws new ones at
            every visit.
    """

    role: Role
    language: Language
    index: int  # type: ignore[assignment]  # a field, in place of tuple.index
    visit: int = 0


Example: TypeAlias = Any
"""A row in whatever form its collator takes: a dict of columns, a text, a list of token ids."""

Keyed: TypeAlias = tuple[Key, Example]
"""An example with its address."""
