"""Repositories that are hostile or broken: each is refused by one clear error, and nothing is
written but the cache.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from hf_meta_adapters import LanguageAdapterModel
from hf_meta_adapters.errors import ConfigurationError, HubError, MetaAdapterError
from hf_meta_adapters.hub.manifest import MANIFEST
from tests.adapted import adapted, stirred
from tests.hub_server import HubServer, Tree
from tests.signed import sign_tree

FAMILY = "eve/family"
ADAPTER, SHARED = "sw/adapter_model.safetensors", "model.safetensors"
CONFIG = "sw/adapter_config.json"


def manifest(**changes: Any) -> Callable[[Tree], None]:
    def edit(files: Tree) -> None:
        files[MANIFEST] = json.dumps({**json.loads(files[MANIFEST]), **changes}).encode()

    return edit


def declared(**changes: Any) -> Callable[[Tree], None]:
    """Other entries among the declared files."""

    def edit(files: Tree) -> None:
        manifest(files={**json.loads(files[MANIFEST])["files"], **changes})(files)

    return edit


def based_elsewhere(base: str) -> Callable[[Tree], None]:
    """A base that is only named, so that its weights are not among the declared files."""

    def edit(files: Tree) -> None:
        sizes = json.loads(files[MANIFEST])["files"]
        own = {path: size for path, size in sizes.items() if path != SHARED}
        manifest(base_model=base, files=own)(files)

    return edit


def text(path: str, **changes: Any) -> Callable[[Tree], None]:
    def edit(files: Tree) -> None:
        files[path] = json.dumps({**json.loads(files[path]), **changes}).encode()

    return edit


def content(path: str, data: bytes, size: bool = True) -> Callable[[Tree], None]:
    """Another content, of which the manifest tells the size (or does not)."""

    def edit(files: Tree) -> None:
        files[path] = data
        if size:
            declared(**{path: len(data)})(files)

    return edit


def pickled(path: str, name: str) -> Callable[[Tree], None]:
    def edit(files: Tree) -> None:
        files[f"{os.path.dirname(path)}/{name}".lstrip("/")] = b"\x80\x04."
        del files[path]
        sizes = json.loads(files[MANIFEST])["files"]
        manifest(files={one: size for one, size in sizes.items() if one != path})(files)

    return edit


def reshaped(*paths: str) -> Callable[[Tree], None]:
    """Every tensor has one more row."""

    def edit(files: Tree) -> None:
        for path in paths:
            tensors = {name: torch.cat([one, one[:1]]) for name, one in load(files[path]).items()}
            content(path, save(tensors, {"format": "pt"}))(files)

    return edit


def both(**changes: Any) -> Callable[[Tree], None]:
    """The same settings for all languages."""

    def edit(files: Tree) -> None:
        for path in (CONFIG, CONFIG.replace("sw", "en")):
            text(path, **changes)(files)

    return edit


EVIL = "((([a-z0-9_.])+)+)+!"


def index(names: list[str]) -> Callable[[Tree], None]:
    def edit(files: Tree) -> None:
        files["model.safetensors.index.json"] = json.dumps(
            {"weight_map": dict(enumerate(names))}
        ).encode()

    return edit


HOSTILE: dict[str, tuple[Callable[[Tree], None], str]] = {
    "a language that climbs out": (
        manifest(languages=["en", "../../evil"]),
        r"unsafe languages.*Found '../../evil'",
    ),
    "an absolute language": (manifest(languages=["/etc"]), "unsafe languages.*Found '/etc'"),
    "a hidden language": (manifest(languages=[".ssh"]), r"unsafe languages.*Found '\.ssh'"),
    "the folder of θ as a language": (manifest(languages=["shared"]), "unsafe languages.*'shared'"),
    "two languages in one folder": (manifest(languages=["sw", "SW"]), "unsafe languages"),
    "a language that is no text": (manifest(languages=[["sw"]]), "unsafe languages"),
    "no languages": (manifest(languages=[]), "unsafe languages"),
    "a manifest that is no JSON": (content(MANIFEST, b"{", False), "no JSON"),
    "a manifest that is a list": (content(MANIFEST, b"[]", False), "Found in .* a list"),
    "a huge manifest": (
        content(MANIFEST, b" " * (2**24 + 1), False),
        "must be a short text. Found 16,777,217 bytes",
    ),
    "a later format": (manifest(format=2), "format 2, where this version reads 1"),
    "a declared file that climbs out": (
        declared(**{"../evil.safetensors": 9}),
        "'../evil.safetensors': 9",
    ),
    "a declared absolute file": (
        declared(**{"/etc/evil.safetensors": 9}),
        "'/etc/evil.safetensors': 9",
    ),
    "a declared pickle": (declared(**{"sw/adapter_model.bin": 9}), "'sw/adapter_model.bin': 9"),
    "a size that is none": (declared(**{ADAPTER: "big"}), f"'{ADAPTER}': 'big'"),
    "an adapter larger than declared": (
        content(ADAPTER, b"x" * 99_999, False),
        "has 99,999 bytes, where the manifest",
    ),
    "shared weights larger than declared": (
        content(SHARED, b"x" * 99_999, False),
        f"{SHARED} has 99,999 bytes",
    ),
    "a huge configuration": (
        content("config.json", b" " * (2**24 + 1), False),
        "config.json has 16,777,217 bytes",
    ),
    "a pickled adapter": (
        pickled(ADAPTER, "adapter_model.bin"),
        "only a pickle, sw/adapter_model.bin.*converted by",
    ),
    "pickled shared weights": (
        pickled(SHARED, "pytorch_model.bin"),
        "only a pickle, pytorch_model.bin, which can run",
    ),
    "an adapter that is missing": (lambda files: files.pop(ADAPTER), f"{ADAPTER} is missing"),
    "weights that are no safetensors": (
        content(ADAPTER, b"\x80\x04pickle"),
        "must be in safetensors format. Found",
    ),
    "shared weights that are none": (
        content(SHARED, b"\x80\x04pickle"),
        "checkpoint in safetensors format. Found",
    ),
    "a link in place of an adapter": (
        content(ADAPTER, b"../../../../etc/passwd"),
        "must be in safetensors format",
    ),
    "an adapter of other shapes": (reshaped(ADAPTER), r"must fit the model.*shape .*; .*; .*shape"),
    "adapters of other shapes": (
        reshaped(ADAPTER, ADAPTER.replace("sw", "en")),
        r"(?s)/en/.*shape.*\n.*/sw/.*shape",
    ),
    "shared weights of other shapes": (
        reshaped(SHARED),
        r"of the configuration: bert.embeddings.LayerNorm.bias.*; .*; cls.predictions.bias",
    ),
    "code of its own": (
        text("config.json", auto_map={"AutoModel": "evil.Evil"}),
        "code of its own, `auto_map`",
    ),
    "an index that climbs out": (
        index(["../../evil.safetensors"]),
        "beside it. Found .*'../../evil.safetensors'",
    ),
    "an index of pickles": (index(["pytorch_model.bin"]), "beside it. Found .*'pytorch_model.bin'"),
    "a class that is no model": (
        manifest(base_class="AutoTokenizer"),
        "must be a model class of transformers",
    ),
    "a backend that nobody has": (manifest(backend="os"), "backend must be one of"),
    "a base that is a folder": (
        based_elsewhere("/etc/x/y"),
        "must name a repository. Found '/etc/x/y'",
    ),
    "a deep manifest": (
        content(MANIFEST, b"[" * 99_999, False),
        "no JSON in `language_adapters.json`: maximum recursion depth",
    ),
    "a manifest with two contents": (
        content(MANIFEST, b'{"format": 1, "format": 2}', False),
        "the key 'format' comes twice",
    ),
    "a manifest that is no text": (content(MANIFEST, b"\xff\xfe{}", False), "no JSON.*utf-8"),
    "a nested entry": (
        manifest(details={"a": json.loads("[" * 99 + "]" * 99)}),
        "more than 64 lists or objects inside one another",
    ),
    "as many languages as nobody speaks": (
        manifest(languages=[f"l{number}" for number in range(4_001)]),
        "4,001 languages, where 4,000 are the most",
    ),
    "a deep configuration": (content("config.json", b'{"a":' * 99_999, False), "no JSON in `conf"),
    "a configuration that is a list": (content("config.json", b"[]", False), "config.json a list"),
    "attention from a repository": (
        text("config.json", _attn_implementation="eve/kernels"),
        "code of its own, `_attn_implementation=eve/kernels`",
    ),
    "a module by its name": (text(CONFIG, megatron_config={"a": 1}), "code of its own, `megatron"),
    "a width that is no number": (text("config.json", hidden_size="wide"), "Found in .*: "),
    "a negative width": (text("config.json", hidden_size=-1), "Found in .*: "),
    "a vocabulary for all words of all times": (
        text("config.json", vocab_size=10**9),
        r"must fit its weights. Found settings in .* its files hold [0-9]|allocate memory",
    ),
    "a million layers": (text("config.json", num_hidden_layers=10**6), "must fit its weights"),
    "a billion layers": (
        text("config.json", num_hidden_layers=10**9),
        "config.json `num_hidden_layers` 1,000,000,000, where 1,048,576 is the most",
    ),
    "a billion labels": (text("config.json", num_labels=10**9), "`num_labels` 1,000,000,000"),
    "a number without end": (
        text("config.json", vocab_size=10**400),
        "`vocab_size` with a number of 1329 bits",
    ),
    "a rank that no machine has room for": (both(r=10**9), "`r` 1,000,000,000, where"),
    "a rank that no file has": (both(r=10**6), "must fit its weights. Found settings in .*en"),
    "ranks by an expression": (
        both(rank_pattern={EVIL: 2}),
        r"`rank_pattern` must hold regular expressions .* took more than 2 seconds",
    ),
    "targets by an expression": (both(target_modules=EVIL), "`target_modules` must hold"),
    "θ by an expression": (manifest(shared=EVIL), "`shared` must hold"),
    "an expression that is none": (both(exclude_modules="("), "`exclude_modules` .*missing"),
    "a scaling that is no number": (both(lora_alpha="2"), "Found in .*/en: TypeError: "),
    "a scaling that is not a number": (both(lora_alpha=float("nan")), "`lora_alpha` nan"),
    "a kind of bias that is none": (both(bias=7), "Found `bias=7`"),
    "another method": (text(CONFIG, r=3, peft_type="EVIL"), "one that cannot be read"),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    folder = tmp_path_factory.mktemp("published")
    stirred(adapted("bert", "lora")).save_pretrained(folder)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_repository_is_refused(
    what: str, published: Tree, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, (change, message) = dict(published), HOSTILE[what]
    change(files)
    sign_tree(files)  # whoever changes a file can change its checksum as well
    hub.repository(FAMILY, files)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises((HubError, ConfigurationError), match=message) as caught:
        LanguageAdapterModel.from_pretrained(FAMILY, cache_dir=tmp_path / "cache")
    assert isinstance(caught.value, MetaAdapterError)
    assert "Traceback" not in str(caught.value)
    assert list(elsewhere.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} <= {"cache", "elsewhere"}
    inside = (tmp_path / "cache").resolve()
    assert all(path.resolve().is_relative_to(inside) for path in (tmp_path / "cache").rglob("*"))
    assert not any(name.endswith(".bin") for name in hub.downloaded())


def test_what_is_too_large_is_not_even_asked_for(
    published: Tree, hub: HubServer, tmp_path: Path
) -> None:
    hub.repository(FAMILY, {**published, ADAPTER: b"x" * 99_999})
    with pytest.raises(HubError, match="99,999"):
        LanguageAdapterModel.from_pretrained(FAMILY, cache_dir=tmp_path)
    assert set(hub.downloaded()) == {MANIFEST}
    # a language that is as it should be can still be had
    assert LanguageAdapterModel.from_pretrained(
        FAMILY, cache_dir=tmp_path, languages=["en"]
    ).languages == ("en",)


@pytest.mark.parametrize("name", [ADAPTER, CONFIG, "config.json", SHARED])
def test_links_in_a_folder_are_not_followed(name: str, tmp_path: Path) -> None:
    stirred(adapted("bert", "lora")).save_pretrained(tmp_path / "model")
    shutil.move(tmp_path / "model" / name, tmp_path / "outside")
    (tmp_path / "model" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(
        HubError, match=rf"must lie in its folder. Found links in .*: {name}. Put the files"
    ):
        LanguageAdapterModel.from_pretrained(tmp_path / "model")


def test_a_linked_folder_is_not_followed_either(tmp_path: Path) -> None:
    adapted("bert", "lora").save_pretrained(tmp_path / "model")
    shutil.move(tmp_path / "model" / "sw", tmp_path / "outside")
    (tmp_path / "model" / "sw").symlink_to(tmp_path / "outside")
    with pytest.raises(HubError, match=r"Found links in .*: sw"):
        LanguageAdapterModel.from_pretrained(tmp_path / "model")
    assert LanguageAdapterModel.from_pretrained(tmp_path / "model", languages=["en"]).languages == (
        "en",
    )


def test_code_of_a_repository_is_never_run(tmp_path: Path) -> None:
    adapted("bert", "lora").save_pretrained(tmp_path)
    loaded = LanguageAdapterModel.from_pretrained(
        tmp_path, trust_remote_code=True
    )  # it is left out
    assert loaded.languages == ("en", "sw")
