"""A streaming dataset as an endless sequence of examples that can be entered at any position."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data.key import Example, Role
from hf_meta_adapters.errors import DataError


class StreamReader:
    """Reads a streaming dataset forward to any position; at its end it begins again.

    Args:
        dataset: The dataset.
        role: Its role, for the messages.
        language: Its language, likewise.

    Raises:
        DataError: If the dataset is an iterator.
    """

    def __init__(self, dataset: object, role: Role, language: Language) -> None:
        if isinstance(dataset, Iterator):
            raise DataError(
                "A streaming dataset must be iterable more than once. Found a"
                f" `{type(dataset).__name__}` as the {role} data of {language!r}. Use for example"
                " `datasets.IterableDataset.from_generator(...)`."
            )

        self._dataset = cast(Iterable[Example], dataset)
        self._role = role
        self._language = language
        self._iterator: Iterator[Example] | None = None
        self._position = 0
        self._pass = 0
        self._pass_start = 0

    def read(self, position: int) -> Example:
        """Return the example at a position; unread examples before it are read and dropped."""
        if self._iterator is None or position < self._position:
            # The stream cannot go back, so an earlier position is reached from the beginning.
            self._position = 0
            self._iterator = self._begin(0)

        while True:
            for example in self._iterator:
                self._position += 1
                if self._position > position:
                    return example

            if self._position == self._pass_start:
                # Without this, an empty stream would be begun again forever.
                raise DataError(
                    f"The {self._role} data of {self._language!r} must hold examples. Found an"
                    f" empty stream in pass {self._pass}. Remove the language."
                )
            self._iterator = self._begin(self._pass + 1)

    def _begin(self, pass_number: int) -> Iterator[Example]:
        self._pass, self._pass_start = pass_number, self._position

        # By name, not by type: `datasets` and many streams of users have it.
        if hasattr(self._dataset, "set_epoch"):
            self._dataset.set_epoch(pass_number)

        return iter(self._dataset)
