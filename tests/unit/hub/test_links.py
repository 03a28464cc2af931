"""A model is never written through links: what lies outside of its folder stays as it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from peft import LoraConfig

from hf_meta_adapters import LanguageAdapterModel, get_language_model
from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub.manifest import MANIFEST, SHARED_ADAPTER
from hf_meta_adapters.hub.push import write_card_file
from tests.adapted import adapted, stirred
from tests.tiny import tiny
from tests.training import make_model, make_tokenizer, make_trainer

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "README.md",
    "gradient_cosine.png",
    "tokenizer.json",
    "training_args.json",
    MANIFEST,
    f"{MANIFEST}.partial",
    *(f"sw/{name}" for name in ADAPTER),
)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, also those behind links to files."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def link(path: Path, outside: Path) -> Path:
    """Put a link in the place of a file or a folder, which moves outside."""
    target = outside / path.name
    if path.exists():
        shutil.move(path, target)
    else:
        target.write_bytes(b"of somebody else")

    path.symlink_to(target)
    return target


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    return tmp_path / "outside"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved model in a folder of its own."""
    adapted("bert", "lora").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", FILES)
def test_a_link_in_place_of_a_file_is_refused(name: str, saved: Path, outside: Path) -> None:
    link(saved / name, outside)
    before = contents(saved.parent)

    with pytest.raises(
        HubError,
        match=rf"never through links.*Found links in .*model: {name}\. .*or save into another",
    ):
        stirred(adapted("bert", "lora")).save_pretrained(saved)
    assert contents(saved.parent) == before
    assert (saved / name).is_symlink()


@pytest.mark.parametrize("name", FILES)
def test_a_link_to_nothing_is_refused(name: str, saved: Path, outside: Path) -> None:
    (saved / name).unlink(missing_ok=True)
    (saved / name).symlink_to(outside / "new")
    before = contents(saved.parent)

    with pytest.raises(HubError, match=rf"Found links in .*: {name}\."):
        stirred(adapted("bert", "lora")).save_pretrained(saved)
    assert contents(saved.parent) == before
    assert list(outside.iterdir()) == []


def test_a_link_in_place_of_the_folder_of_a_language_is_refused(saved: Path, outside: Path) -> None:
    link(saved / "sw", outside)
    link(saved / "config.json", outside)
    before = contents(saved.parent) | contents(outside)

    with pytest.raises(HubError, match=r"Found links in .*: config.json, sw\."):
        stirred(adapted("bert", "lora")).save_pretrained(saved)
    assert contents(saved.parent) | contents(outside) == before


@pytest.mark.parametrize("name", ["", *ADAPTER])
@pytest.mark.parametrize("kind", ["adapter of all languages", "theta"])
def test_a_link_in_place_of_the_shared_adapter_is_refused(
    kind: str, name: str, tmp_path: Path, outside: Path
) -> None:
    base = tiny("bert").make()
    base.save_pretrained(tmp_path / "base")
    if kind == "theta":
        base = type(base).from_pretrained(tmp_path / "base")
        theta = LoraConfig(r=2, target_modules=["query"])
        model = get_language_model(base, None, ["en", "sw"], shared=theta)
    else:
        model = adapted("bert", "lora", share_adapter=True)

    folder = tmp_path / "model"
    model.save_pretrained(folder)
    link(folder / SHARED_ADAPTER / name, outside)
    before = contents(tmp_path) | contents(outside)

    with pytest.raises(HubError, match=rf"Found links in .*: {SHARED_ADAPTER}"):
        stirred(model).save_pretrained(folder)
    assert contents(tmp_path) | contents(outside) == before


@pytest.mark.parametrize(
    "name", ["training_args.json", "tokenizer.json", "tokenizer_config.json", "README.md"]
)
def test_the_trainer_writes_through_no_link_either(
    name: str, tmp_path: Path, outside: Path
) -> None:
    trainer = make_trainer(tmp_path / "run", make_model(), processing_class=make_tokenizer())
    trainer.save_model()
    assert (tmp_path / "run" / name).is_file()
    link(tmp_path / "run" / name, outside)
    (outside / name).write_bytes(b"of somebody else")
    before = contents(tmp_path)

    with pytest.raises(HubError, match=rf"Found links in .*run: {name}\."):
        trainer.save_model()
    assert contents(tmp_path) == before


def test_a_card_is_not_written_through_a_link(saved: Path, outside: Path) -> None:
    target = link(saved / "README.md", outside)
    before = target.read_bytes()

    with pytest.raises(HubError, match=r"Found links in .*: README.md\."):
        write_card_file(saved, None, repo_id="me/family", metadata={"license": "mit"})
    assert target.read_bytes() == before


def test_the_cache_of_the_hub_is_not_written_into(saved: Path, tmp_path: Path) -> None:
    """Its files are links to `blobs/`, which other snapshots have too."""
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / "commit"
    blobs.mkdir(parents=True)
    shutil.copytree(saved, snapshot)
    for number, path in enumerate(path for path in snapshot.rglob("*") if path.is_file()):
        shutil.move(path, blobs / str(number))
        path.symlink_to(os.path.relpath(blobs / str(number), path.parent))
    before = contents(blobs)

    model = LanguageAdapterModel.from_pretrained(snapshot)
    with pytest.raises(HubError, match=r"Found links in .*commit: README.md, config.json, en/"):
        stirred(model).save_pretrained(snapshot)
    assert contents(blobs) == before


def test_nothing_behind_a_link_is_deleted(saved: Path, outside: Path) -> None:
    """The folder of a language that the new model does not have."""
    link(saved / "sw", outside)
    before = contents(outside)
    adapted("bert", "lora", ["en"]).save_pretrained(saved)
    assert contents(outside) == before
    assert LanguageAdapterModel.from_pretrained(saved).languages == ("en",)


@pytest.mark.parametrize("name", ["sw", "latest"])
def test_an_interrupted_save_is_not_finished_through_a_link(
    name: str, saved: Path, outside: Path
) -> None:
    """A folder may come from somebody else, with what looks like an interrupted save."""
    staging = saved / f"{MANIFEST}.0123abcd.partial"
    adapted("bert", "lora").save_pretrained(staging)
    (staging / name).mkdir(exist_ok=True)
    (staging / name / "evil.txt").write_text("evil")
    shutil.rmtree(saved / name, ignore_errors=True)
    (saved / name).symlink_to(outside)

    with pytest.raises(HubError, match=rf"Found links in .*: {name}\."):
        LanguageAdapterModel.from_pretrained(saved)
    assert contents(outside) == {}


def test_links_that_nothing_is_written_through_are_left_alone(saved: Path, outside: Path) -> None:
    (outside / "note.txt").write_text("of somebody else")
    (saved / "latest").symlink_to(outside)
    (saved.parent / "by_another_name").symlink_to(saved)

    model = stirred(adapted("bert", "lora"))
    model.save_pretrained(saved.parent / "by_another_name")
    assert LanguageAdapterModel.from_pretrained(saved).languages == ("en", "sw")
    assert [path.name for path in outside.iterdir()] == ["note.txt"]
    assert (saved / "latest").is_symlink()


@pytest.mark.parametrize("name", FILES)
def test_another_name_of_a_file_is_not_written_through(
    name: str, saved: Path, outside: Path
) -> None:
    target = outside / Path(name).name
    if (saved / name).exists():
        shutil.move(saved / name, target)
    else:
        target.write_bytes(b"of somebody else")
    os.link(target, saved / name)
    (saved / "mine.txt").write_text("mine")
    os.link(saved / "mine.txt", outside / "mine.txt")
    before = contents(outside)

    model = stirred(adapted("bert", "lora"))
    model.save_pretrained(saved)
    assert contents(outside) == before
    assert target.stat().st_nlink == 1
    assert (saved / "mine.txt").read_text() == "mine"
    if "index" not in name:  # of shards that there are not
        assert LanguageAdapterModel.from_pretrained(saved).languages == ("en", "sw")


@pytest.mark.parametrize(
    "name", ["training_args.json", "tokenizer.json", "README.md", "te/adapter_model.safetensors"]
)
def test_nor_does_the_trainer(name: str, tmp_path: Path, outside: Path) -> None:
    trainer = make_trainer(tmp_path / "run", make_model(), processing_class=make_tokenizer())
    trainer.save_model()
    os.link(tmp_path / "run" / name, outside / "copy")
    (outside / "copy").write_bytes(b"{}")
    trainer.save_model()
    assert (outside / "copy").read_bytes() == b"{}"
    assert (tmp_path / "run" / name).read_bytes() != b"{}"
