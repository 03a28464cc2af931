"""What `tests.faults.fuzz` does to the files of a saved model: one change each, drawn at random."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

MANIFEST, CONFIG = "language_adapters.json", "adapter_config.json"
Files = dict[str, bytes]


@dataclass
class Mutant:
    """The files of a family after one change.

    Args:
        files: The path of each file → its bytes.
        what: The change, in words.
        links: The path of each link → its target; `{outside}` stands for a folder elsewhere.
        folders: Folders in the place of a file, or beside files.
        setting: The file and the setting that were changed, where the change is one of a value.
        in_weights: Whether numbers were changed which only a checksum can tell from others.
    """

    files: Files
    what: str = ""
    links: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    setting: tuple[str, str] | None = None
    in_weights: bool = False


PATTERNS = (
    "((([a-z0-9_.])+)+)+!",
    "(a|a|[a-z]|.)*!",
    ".*.*.*.*.*.*.*.*.*!",
    "((.{1,60}){1,60}){1,60}!",
    r"(\w+\.?)*!",
    "(",
    "[",
    "(?P<a",
    "*",
    r"\1",
    "(" * 3000 + ")" * 3000,
    "a{99999999999}",
    "(?i:.*",
    "|".join(["x" * 9] * 9999),
    ".*",
    "",
)
SIZES = (10**9, 2**31, 2**63, 10**30, 10**400, 10**6, -1, 0, 1, 3, 1e9, 1e400, 0.5)
PATHS = ("../evil", "/etc/passwd", "~/.ssh", "..", "a/../../b", "C:\\x", "\x00", "\\\\host\\share")
TEXTS = (
    "",
    " ",
    "é" * 999,
    "\u202e\ufeff",
    "\ud800",
    "None",
    "default",
    "lora",
    "a.b",
    "x" * 10**5,
)
OTHERS = (None, True, False, [], {}, [[]], [None], {"a": {"b": []}}, [1, "a", None], float("nan"))
PATTERNED = (
    "shared",
    "target_modules",
    "exclude_modules",
    "rank_pattern",
    "alpha_pattern",
    "layers_pattern",
    "modules_to_save",
    "feedforward_modules",
    "modules",
)
NEW_KEYS = (
    "layer_replication",
    "megatron_config",
    "auto_map",
    "quantization_config",
    "r",
    "_attn_implementation",
    "attn_implementation",
    "text_config",
    "num_labels",
    "use_dora",
    "runtime_config",
    "pruned_heads",
    "id2label",
    "layer_types",
    "evil",
)
EXTRA = (
    "pytorch_model.bin",
    "adapter_model.bin",
    "modeling.py",
    "model.safetensors.index.json",
    "generation_config.json",
    "adapter_config.json",
    "chat_template.jinja",
    "adapter_model.safetensors",
    "model-00001-of-00002.safetensors",
    "pytorch_model.bin.index.json",
    "quant_config.json",
    "custom_generate/generate.py",
)
WORDS = ("eager", "gelu", "relu", "all-linear", "none", "all", "BertModel", "GPT2Model", "float16")


def _deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _value(random: Random) -> Any:
    """Something that may stand in a JSON file."""
    draw = random.random()
    if draw < 0.25:
        return random.choice(SIZES)
    if draw < 0.45:
        return random.choice(PATTERNS)
    if draw < 0.55:
        return random.choice(PATHS + TEXTS)
    if draw < 0.65:
        return random.choice(WORDS)
    if draw < 0.7:
        return _deep(random.choice((50, 500)))
    if draw < 0.75:
        return {random.choice(PATTERNS): random.choice(SIZES)}
    if draw < 0.8:
        return [random.choice((*PATTERNS, *TEXTS, *SIZES)) for _ in range(random.choice((1, 3)))]
    if draw < 0.83:
        return [f"l{number}" for number in range(random.choice((300, 30_000)))]
    return random.choice(OTHERS)


def _near(random: Random, value: Any) -> Any:
    """A value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return random.choice((value + 1, value - 1, 2 * value, value // 2))
    if isinstance(value, float):
        return random.choice((2 * value, value / 2, -value, value + 0.1))
    if isinstance(value, str):
        return random.choice((*WORDS, value.upper(), value[:-1], f"{value}.", value[1:]))
    return _value(random)


def _dumps(content: Any) -> bytes:
    # `default`: a JSON that Python reads back, with NaN, and with surrogates as escapes
    return json.dumps(content, indent=2).encode()


def _texts(files: Files) -> list[str]:
    return sorted(path for path in files if path.endswith(".json"))


def _weights(files: Files) -> list[str]:
    return sorted(path for path in files if path.endswith(".safetensors"))


def _place(random: Random, content: Any) -> tuple[Any, Any, str]:
    """A container in a JSON document, a key in it, and the path to it in words."""
    container, key, path = content, random.choice(sorted(content)), ""
    path = str(key)
    while isinstance(container[key], (dict, list)) and container[key] and random.random() < 0.6:
        container = container[key]
        keys = sorted(container) if isinstance(container, dict) else list(range(len(container)))
        key = random.choice(keys)
        path += f".{key}"
    return container, key, path


def changed_value(random: Random, mutant: Mutant) -> None:
    """Another value in a JSON file."""
    path = random.choice(_texts(mutant.files))
    content = json.loads(mutant.files[path])
    container, key, place = _place(random, content)
    container[key] = _near(random, container[key]) if random.random() < 0.3 else _value(random)
    mutant.files[path] = _dumps(content)
    mutant.what = f"{path}: {place} = {_short(container[key])}"
    mutant.setting = path, place


def everywhere(random: Random, mutant: Mutant) -> None:
    """Another value in the configurations of all adapters: these agree with one another."""
    paths = [path for path in _texts(mutant.files) if path.endswith(CONFIG)]
    if not paths:
        return
    content = json.loads(mutant.files[paths[0]])
    container, key, place = _place(random, content)
    container[key] = _near(random, container[key]) if random.random() < 0.3 else _value(random)
    for path in paths:
        mutant.files[path] = _dumps(content)
    mutant.what = f"*/{CONFIG}: {place} = {_short(container[key])}"
    mutant.setting = paths[0], place


def pattern(random: Random, mutant: Mutant) -> None:
    """A regular expression that takes for ever, or is none, where one may stand."""
    evil = random.choice(PATTERNS)
    paths = [path for path in _texts(mutant.files) if path.endswith(CONFIG)]
    name = random.choice(PATTERNED)
    if name == "shared" or not paths:
        paths, name = [MANIFEST], "shared"
    value: Any = evil
    if name.endswith("_pattern") and name != "layers_pattern":
        value = {evil: random.choice(SIZES)}
    elif name in ("modules_to_save", "modules"):
        value = [evil]
    for path in paths:
        content = {**json.loads(mutant.files[path]), name: value}
        if name == "layers_pattern":
            content["layers_to_transform"] = [0]
        mutant.files[path] = _dumps(content)
    mutant.what = f"{name} = {_short(value)}"
    mutant.setting = paths[0], name


def size(random: Random, mutant: Mutant) -> None:
    """A size that no machine has room for, or that is none."""
    found = []
    for path in _texts(mutant.files):
        content = json.loads(mutant.files[path])
        found += [(path, key) for key, value in content.items() if type(value) in (int, float)]
    if not found:
        return
    path, key = random.choice(found)
    value = random.choice(SIZES)
    paths = [path]
    if path.endswith(CONFIG):
        paths = [each for each in _texts(mutant.files) if each.endswith(CONFIG)]
    for each in paths:
        content = json.loads(mutant.files[each])
        if key in content:
            mutant.files[each] = _dumps({**content, key: value})
    mutant.what = f"{path}: {key} = {_short(value)}"
    mutant.setting = path, key


def keys(random: Random, mutant: Mutant) -> None:
    """A key that is missing, comes twice, is new, or has another name."""
    path = random.choice(_texts(mutant.files))
    content = json.loads(mutant.files[path])
    key = random.choice(sorted(content))
    kind = random.choice(("missing", "twice", "new", "renamed"))
    if kind == "missing":
        del content[key]
    elif kind == "new":
        key = random.choice(NEW_KEYS)
        content[key] = _value(random)
    elif kind == "renamed":
        content[random.choice((key.upper(), f"{key}\u200b", ""))] = content.pop(key)
    mutant.files[path] = _dumps(content)
    if kind == "twice":
        first = f"{{{json.dumps(key)}: {json.dumps(_value(random))},".encode()
        mutant.files[path] = first + mutant.files[path].lstrip()[1:]
    mutant.what = f"{path}: {key} is {kind}"
    mutant.setting = path, key


def no_json(random: Random, mutant: Mutant) -> None:
    """A file that is no JSON object, or not one that can be read."""
    path = random.choice(_texts(mutant.files))
    data = mutant.files[path]
    kinds = {
        "a list": b"[]",
        "null": b"null",
        "a number": b"1",
        "a text": b'"text"',
        "nothing": b"",
        "an empty object": b"{}",
        "deep": b"[" * 10**5 + b"]" * 10**5,
        "deep and open": b'{"a":' * 10**5,
        "a deep entry": data.rstrip()[:-1] + b', "deep": ' + b"[" * 9999 + b"]" * 9999 + b"}",
        "many digits": b'{"a": ' + b"9" * 5000 + b"}",
        "with many digits": data.rstrip()[:-1] + b', "a": ' + b"9" * 5000 + b"}",
        "two documents": data + data,
        "with a mark": b"\xef\xbb\xbf" + data,
        "utf-16": data.decode().encode("utf-16"),
        "no utf-8": data.replace(b'"', b'"\xff', 1),
        "cut": data[: random.randrange(len(data))],
        "huge": data + b" " * (2**24 + 1),
        "with a zero": data.replace(b":", b":\0", 1),
    }
    kind = random.choice(sorted(kinds))
    mutant.files[path] = kinds[kind]
    mutant.what = f"{path}: {kind}"


def header(random: Random, mutant: Mutant) -> None:
    """Another header of a safetensors file."""
    path = random.choice(_weights(mutant.files))
    data = mutant.files[path]
    length = struct.unpack("<Q", data[:8])[0]
    content, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    name = random.choice(sorted(set(content) - {"__metadata__"}))
    entry = content[name]
    kind = random.choice(("shape", "dtype", "offsets", "renamed", "missing", "new", "metadata"))
    if kind == "shape":
        wrong = (*SIZES, [0], [10**9, 10**9], [], [-1], [2**62, 4], "a", None, [1, *entry["shape"]])
        entry["shape"] = random.choice((*wrong, entry["shape"][::-1]))
        mutant.in_weights = True
    elif kind == "dtype":
        entry["dtype"] = random.choice(
            ("I32", "F16", "BF16", "F64", "U8", "BOOL", "C64", "F8_E4M3", "F4", "F8_E8M0", "X", 1)
        )
        mutant.in_weights = True
    elif kind == "offsets":
        entry["data_offsets"] = random.choice(
            ([0, 0], [0, 10**12], [10**12, 0], [-1, 4], [0], "a", None, [0, len(body)])
        )
    elif kind == "renamed":
        content[random.choice((f"{name}.x", "", "../x", name.upper(), "\ud800"))] = content.pop(
            name
        )
    elif kind == "missing":
        del content[name]
    elif kind == "new":
        content["evil"] = {"dtype": "F32", "shape": [0, 2**40], "data_offsets": [len(body)] * 2}
    else:
        content["__metadata__"] = random.choice(
            ({}, None, {"format": "tf"}, {"format": "x"}, {"a": 1}, [], "pt", {"format": "flax"})
        )
    text = json.dumps(content).encode()
    size = len(text)
    if random.random() < 0.15:
        kind, size = "length", random.choice((0, 1, 2**63, 2**64 - 1, 10**8, size - 1, size + 9))
    elif random.random() < 0.1:
        kind, text = "deep", b"[" * 99_999
        size = len(text)
    mutant.files[path] = struct.pack("<Q", size) + text + body
    mutant.what = f"{path}: header, {kind} of {name}: {_short(content.get(name))}"


def data(random: Random, mutant: Mutant) -> None:
    """Other bytes in a file of weights."""
    path = random.choice(_weights(mutant.files))
    content = bytearray(mutant.files[path])
    for _ in range(random.choice((1, 1, 3, 99))):
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    mutant.files[path] = bytes(content)
    mutant.what = f"{path}: other bytes"
    mutant.in_weights = True


def length(random: Random, mutant: Mutant) -> None:
    """A file of weights that is too short or too long."""
    path = random.choice(_weights(mutant.files))
    content = mutant.files[path]
    kinds = {
        "empty": b"",
        "cut": content[: random.randrange(len(content))],
        "header only": content[: 8 + struct.unpack("<Q", content[:8])[0]],
        "longer": content + b"\0" * random.choice((1, 8, 999)),
        "twice": content + content,
        "zeros": bytes(len(content)),
        "a pickle": b"\x80\x04.",
    }
    kind = random.choice(sorted(kinds))
    mutant.files[path] = kinds[kind]
    mutant.what = f"{path}: {kind}"


def places(random: Random, mutant: Mutant) -> None:
    """Files that are in the wrong place, missing, or more than there were."""
    files = mutant.files
    path, other = random.choice(sorted(files)), random.choice(sorted(files))
    kind = random.choice(("swapped", "copied", "missing", "renamed", "empty", "extra", "folder"))
    mutant.what = f"{path}: {kind} {other}"
    if kind == "swapped":
        files[path], files[other] = files[other], files[path]
        mutant.in_weights = {_end(path), _end(other)} == {"safetensors"}
    elif kind == "copied":
        files[path] = files[other]
        mutant.in_weights = {_end(path), _end(other)} == {"safetensors"}
    elif kind == "missing":
        del files[path]
    elif kind == "empty":
        files[path] = b""
    elif kind == "folder":
        del files[path]
        mutant.folders.append(path)
    elif kind == "renamed":
        top = path.split("/")[0]
        new = random.choice((f"{top}2", top.upper(), f"{top} ", "shared", "checkpoint-1"))
        for each in [each for each in files if each.split("/")[0] == top]:
            files[new + each[len(top) :]] = files.pop(each)
        mutant.what = f"{top}: renamed to {new}"
    else:
        name = random.choice(EXTRA)
        folder = path.rpartition("/")[0]
        name = f"{folder}/{name}" if folder and random.random() < 0.5 else name
        files[name] = random.choice((b"", b"{}", b"\x80\x04.", files[path], b"raise SystemExit"))
        mutant.what = f"{name}: extra"


def links(random: Random, mutant: Mutant) -> None:
    """A link in the place of a file or a folder."""
    path = random.choice(sorted(mutant.files))
    if "/" in path and random.random() < 0.4:
        path = path.split("/")[0]
    target = random.choice(
        ("{outside}/file", "{outside}", "/dev/zero", path, "nowhere", "config.json")
    )
    for each in [each for each in mutant.files if each == path or each.startswith(f"{path}/")]:
        del mutant.files[each]
    mutant.links[path] = target
    mutant.what = f"{path}: a link to {target}"


CHANGES: tuple[Callable[[Random, Mutant], None], ...] = (
    changed_value,
    changed_value,
    changed_value,
    everywhere,
    everywhere,
    pattern,
    size,
    keys,
    no_json,
    header,
    data,
    length,
    places,
    links,
)


def mutated(files: Files, random: Random) -> Mutant:
    """A family with one change."""
    mutant = Mutant(dict(files))
    while not mutant.what:
        random.choice(CHANGES)(random, mutant)
    return mutant


def signed(files: Files) -> Files:
    """The files with sizes and checksums in the manifest that fit them, where it has any."""
    try:
        content = json.loads(files[MANIFEST])
        new = {name: _signed(value, files) for name, value in content.items()}
        return files if new == content else {**files, MANIFEST: _dumps(new)}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        return files  # of a manifest that cannot be read there is nothing to sign


def _signed(value: Any, files: Files) -> Any:
    """An entry whose keys are paths, with what the files at these paths are."""
    if not isinstance(value, dict):
        return value
    new = dict(value)
    for path, entry in value.items():
        if path in files:
            new[path] = _measured(entry, files[path])
    return new


def _measured(entry: Any, content: bytes) -> Any:
    if type(entry) is int:
        return len(content)
    if isinstance(entry, str) and re.fullmatch(r"[0-9a-f]{64}", entry):
        return hashlib.sha256(content).hexdigest()
    if isinstance(entry, dict):
        return {name: _measured(one, content) for name, one in entry.items()}
    return entry


def _end(path: str) -> str:
    return path.rpartition(".")[2]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:50]}… ({len(text)} characters)"
