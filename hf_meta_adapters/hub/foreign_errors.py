"""What a library raises over the content of a file, said as an error of this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import torch

from hf_meta_adapters.errors import HubError, MetaAdapterError
from hf_meta_adapters.hub.client import meaning_of

_PACKAGE = __name__.partition(".")[0]
_LONGEST = 500
_FAULTS = (AssertionError, AttributeError, LookupError, NameError, TypeError)
"""What a mistake in a program raises. Other errors come from libraries that have no frames."""


@contextmanager
def reading(place: str | Path, rule: str, remedy: str) -> Iterator[None]:
    """Turn what a library raises over the content of a file into a `HubError`, with its cause.

    Three kinds of errors pass as they are: those of this package; those of a machine without
    memory; and those that arise in the code of this package, which are faults of ours and no
    file's.

    Args:
        place: The file or the folder that the library reads.
        rule: What must be there.
        remedy: What to do if it is not.

    Raises:
        HubError: In place of an error of a library.
    """
    try:
        yield
    except (MetaAdapterError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, _FAULTS) and _is_ours(error.__traceback__):
            raise

        found = f"{type(error).__name__}: {shortened(error)}"
        rule, remedy = meaning_of(error) or (rule, remedy)
        raise HubError(f"{rule.rstrip('.')}. Found in {place}: {found} {remedy}.") from error


@contextmanager
def reading_adapter(folder: Path) -> Iterator[None]:
    """The same as `reading`, for the folder of an adapter.

    Args:
        folder: The folder.

    Raises:
        HubError: In place of an error of a library.
    """
    rule = "The files of an adapter must hold what its library wrote."
    with reading(folder, rule, "Download or save the adapter again"):
        yield


def shortened(text: object) -> str:
    """A text of a file or a library in one line, of a length that can be read."""
    line = " ".join(str(text).split())
    if len(line) > _LONGEST:
        line = f"{line[:_LONGEST]}…"

    return line if line.endswith((".", "…", "!", "?")) else f"{line}."


def _is_ours(trace: TracebackType | None) -> bool:
    """Whether an error arose in a module of this package, not in one that it calls."""
    name = ""
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        trace = trace.tb_next

    return name.partition(".")[0] == _PACKAGE
