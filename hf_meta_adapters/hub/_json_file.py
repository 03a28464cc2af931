"""The JSON of a saved model, which may come from anywhere."""

from __future__ import annotations

import json
from collections import Counter, deque
from pathlib import Path

from hf_meta_adapters._typing import JsonObject
from hf_meta_adapters.errors import HubError

LARGEST_JSON = 16 * 2**20
"""The most bytes of a JSON file, whose size the manifest does not declare."""

_LONGEST = 300
_DEEPEST = 64
"""Lists and objects inside one another: copying and writing them takes several calls for each."""


def read_json(path: Path, rule: str) -> object:
    """Read a JSON file.

    Args:
        path: The file.
        rule: What the file must be, for the message.

    Raises:
        HubError: If it is too large, is not JSON, names a key twice, or is too deep.
    """
    # a pipe, for one, would be read for ever
    if not path.is_file():
        raise HubError(
            f"{rule} Found in {path.parent} `{path.name}`, which is no file. Replace it."
        )

    try:
        size = path.stat().st_size
        if size > LARGEST_JSON:
            raise HubError(
                f"{rule} Found in {path.parent} `{path.name}` with {size:,} bytes, where"
                f" {LARGEST_JSON:,} is the most. Download or save it again."
            )

        content: object = json.loads(
            path.read_text(encoding="utf-8"), object_pairs_hook=_with_single_keys
        )
        _check_depth(content)

    except HubError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise HubError(
            f"{rule} Found in {path.parent} no JSON in `{path.name}`: {error}. Download or save it"
            " again."
        ) from error

    return content


def shown(value: object) -> str:
    """A value in a message: a file may hold megabytes of it."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} characters)"


def _with_single_keys(pairs: list[tuple[str, object]]) -> JsonObject:
    """An object, of which two programs could read two contents if a key came twice."""
    content = dict(pairs)
    if len(content) == len(pairs):
        return content

    counts = Counter(key for key, _ in pairs)
    twice = max(counts, key=counts.__getitem__)
    raise ValueError(f"the key {twice[:80]!r} comes twice")


def _check_depth(content: object) -> None:
    waiting = deque([(content, 1)])

    while waiting:
        value, depth = waiting.popleft()
        if depth > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} lists or objects inside one another")

        if isinstance(value, dict):
            waiting.extend((one, depth + 1) for one in value.values())
        elif isinstance(value, list):
            waiting.extend((one, depth + 1) for one in value)
