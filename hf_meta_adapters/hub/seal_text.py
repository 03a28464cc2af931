"""The text of the seal of a checkpoint, written with it, and again where it is published."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping

__all__ = ["seal_checksum", "sealed"]


def sealed(content: Mapping[str, object]) -> str:
    """The content of a seal as JSON, with its checksum."""
    return json.dumps({**content, "checksum": seal_checksum(content)}, indent=1) + "\n"


def seal_checksum(content: Mapping[str, object]) -> int:
    """The CRC-32 of the content of a seal, without that of the checksum."""
    rest = {name: value for name, value in content.items() if name != "checksum"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())
