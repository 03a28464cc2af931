"""What a saved configuration may ask for: no code, and no number that nobody means."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub._json_file import read_json

_RULE = "A saved model must have readable JSON files with sensible settings."
_MOST = 2**20
"""As many layers, labels, heads or ranks as no model has: libraries count up to such numbers."""

_COUNTS = re.compile(
    r"layers?$|labels$|heads$|experts|groups?$|blocks?$|stages$|(^|_)r(ank)?(_pattern)?$|"
    r"virtual_tokens|bottleneck|prefix_length|submodules|sample|frequency"
)
"""How settings are named by which libraries repeat something, or make room for it at once."""

_CODE = ("auto_map", "megatron_config")
"""The settings by which transformers and PEFT import modules that a file names."""

_ATTENTION = re.compile(r"_?(attn|experts)_implementation(_internal)?")
_NAME = re.compile(r"[\w|-]*")


def check_settings(path: Path, *, is_adapter: bool = False) -> None:
    """Refuse a JSON file whose settings name code, or numbers that nothing can be made of.

    Args:
        path: The file; nothing is checked if it is missing.
        is_adapter: Whether it holds the settings of an adapter, not of a model.

    Raises:
        HubError: If it is no JSON object, or has such settings.
    """
    # a broken link is none of the files that are read
    if not path.exists():
        return

    content = read_json(path, _RULE)
    if not isinstance(content, dict):
        raise _refused(path, f"a {type(content).__name__}", "Download or save it again")

    for setting, value in _entries(content):
        if isinstance(value, int | float):
            _check_number(path, setting, value, is_adapter)

        names = setting.split(".")
        if names[-1] in _CODE and value:
            raise _code(path, setting)

        # By such a name transformers fetches the code of an attention from a repository.
        is_attention = any(map(_ATTENTION.fullmatch, names))
        if is_attention and isinstance(value, str) and not _NAME.fullmatch(value):
            raise _code(path, f"{setting}={value[:80]}")


def is_quantized(folder: Path) -> bool:
    """Whether a library packs the weights of a saved model, according to its `config.json`."""
    path = folder / "config.json"
    if not path.is_file():
        return False

    content = read_json(path, _RULE)
    return isinstance(content, dict) and bool(content.get("quantization_config"))


def _entries(content: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Every value in a JSON file, with the names that lead to it, joined by dots."""
    if name:
        yield name, content

    if isinstance(content, dict):
        for key, value in content.items():
            yield from _entries(value, f"{name}.{key}" if name else key)
    elif isinstance(content, list):
        for value in content:
            if isinstance(value, dict | list | int | float):
                yield from _entries(value, name)


def _check_number(path: Path, setting: str, value: float, is_adapter: bool) -> None:
    remedy = "Correct it, or download or save the model again"
    if isinstance(value, float):
        # An adapter has no use for them; some models are limited by infinity.
        if math.isnan(value) or (is_adapter and math.isinf(value)):
            raise _refused(path, f"`{setting[:80]}` {value}", remedy)
        return

    if abs(value) >= 2**63:
        raise _refused(path, f"`{setting[:80]}` with a number of {value.bit_length()} bits", remedy)

    is_count = any(_COUNTS.search(name) for name in setting.split("."))
    if is_count and abs(value) > _MOST:
        raise _refused(path, f"`{setting[:80]}` {value:,}, where {_MOST:,} is the most", remedy)


def _code(path: Path, setting: str) -> HubError:
    return HubError(
        "The shared weights must be of a model class of transformers. Found code of its own,"
        f" `{setting}`, in {path}, which this package never runs. If you trust that"
        " model, load it by itself and add adapters with `get_language_model`."
    )


def _refused(path: Path, what: str, remedy: str) -> HubError:
    return HubError(f"{_RULE} Found in {path} {what}. {remedy}.")
