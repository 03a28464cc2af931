"""The text of a diagnosis: files of two kinds, a choice by the seed, batches with labels."""

import gzip

import numpy as np
import pytest
import torch

from hf_meta_adapters.errors import DataError, LanguageError
from hf_meta_adapters.study.diagnosis import bits_of_texts, make_batches, read_text_files
from tests.docs.conftest import tokenizer

LINES = [f"Hapo mwanzo {number}" for number in range(20)]
SIZES = {"batches": 4, "batch_size": 8, "max_length": 16}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "en.txt").write_text("\n\n".join(LINES), encoding="utf-8")
    (tmp_path / "sw.txt.gz").write_bytes(gzip.compress("\r\n".join(LINES[:9]).encode()))
    return tmp_path


def test_every_line_is_read_once_in_random_order(folder):
    texts = read_text_files(folder)
    assert list(texts) == ["en", "sw"]
    assert sorted(texts["en"]) == sorted(LINES)
    assert sorted(texts["sw"]) == sorted(LINES[:9])
    assert texts["en"] != LINES


def test_the_choice_depends_on_the_seed_and_not_on_other_languages(folder):
    first = read_text_files(folder, limit=5)
    assert [len(lines) for lines in first.values()] == [5, 5]
    assert read_text_files(folder, limit=5, seed=1) != first

    (folder / "en.txt").unlink()
    assert read_text_files(folder, limit=5)["sw"] == first["sw"]


def test_a_language_with_little_text_has_smaller_batches_not_fewer():
    batches = make_batches({"en": LINES * 2, "sw": LINES[:9]}, tokenizer(), masked=True, **SIZES)
    assert [len(batch["input_ids"]) for batch in batches["en"]] == [8] * 5
    assert [len(batch["input_ids"]) for batch in batches["sw"]] == [2] * 4


@pytest.mark.parametrize("masked", [True, False])
def test_the_labels_are_those_of_the_task(masked):
    (batch, *_) = make_batches({"sw": LINES}, tokenizer(), masked=masked, **SIZES)["sw"]
    predicted = batch["labels"] != -100
    if masked:
        assert 0 < predicted.sum() < batch["attention_mask"].sum()
    else:
        assert torch.equal(predicted, batch["attention_mask"].bool())


def test_texts_of_a_split_lie_in_folders_of_languages(folder):
    for language, lines in (("te", LINES), ("hi", LINES[:3])):
        (folder / language).mkdir()
        (folder / language / "valid.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "te" / "train.txt").write_text("Mwingine", encoding="utf-8")

    texts = read_text_files(folder, split="valid")
    assert {language: sorted(lines) for language, lines in texts.items()} == {
        "hi": sorted(LINES[:3]),
        "te": sorted(LINES),
    }
    assert list(read_text_files(folder)) == ["en", "sw"]


def test_a_copy_that_an_editor_left_is_no_language(folder):
    (folder / "en.txt~").write_text("Mwingine")
    (folder / "fr.txt.bak").write_text("Mwingine")
    assert list(read_text_files(folder)) == ["en", "sw"]


def test_a_folder_without_texts_is_told_apart(tmp_path):
    with pytest.raises(DataError, match=r"Found no folder .*nowhere.* correct the path"):
        read_text_files(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no such file in .*, but nothing\."):
        read_text_files(tmp_path)
    (tmp_path / "en").mkdir()
    with pytest.raises(DataError, match=r"but en\..* pass the split"):
        read_text_files(tmp_path)
    with pytest.raises(DataError, match=r"<language>/valid\.txt or"):
        read_text_files(tmp_path, split="valid")


def test_languages_with_too_little_text_are_all_named(folder):
    (folder / "te.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"at least 10 texts.*Found \{'sw': 9, 'te': 0\}"):
        read_text_files(folder, fewest=10)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("fr.txt", "déjà".encode("latin-1")),
        ("fr.txt.gz", b"not compressed"),
        ("fr.txt.gz", gzip.compress(b"cut off" * 99)[:-9]),
    ],
    ids=["another encoding", "not compressed", "cut off"],  # gzip writes the time
)
def test_a_file_that_cannot_be_read_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"UTF-8.*{name}"):
        read_text_files(folder)


def test_two_files_of_a_language_and_names_that_are_no_key_are_refused(folder):
    (folder / "en.txt.gz").write_bytes(gzip.compress(b"Mwingine"))
    with pytest.raises(DataError, match=r"Found en\.txt and en\.txt\.gz"):
        read_text_files(folder)
    (folder / "en.txt.gz").unlink()
    (folder / "sw.valid.txt").write_text("Mwingine")
    with pytest.raises(LanguageError, match=r"sw\.valid"):
        read_text_files(folder)


def test_every_batch_has_something_to_predict():
    """Of a text of two tokens, chance masks none in three of four draws."""
    short = ["la la"] * 40
    sizes = {"batches": 40, "batch_size": 1, "max_length": 16}
    batches = make_batches({"sw": short}, tokenizer(), masked=True, **sizes)["sw"]
    assert len(batches) == 40
    assert all((batch["labels"] != -100).any() for batch in batches)


def test_texts_without_two_tokens_are_left_out():
    sizes = {"batches": 2, "batch_size": 1, "max_length": 16}
    batches = make_batches({"sw": ["", *LINES[:2]]}, tokenizer(), masked=False, **sizes)["sw"]
    assert len(batches) == 2
    with pytest.raises(DataError, match=r"two tokens.*2 texts of 'te'"):
        make_batches({"te": ["", ""]}, tokenizer(), masked=True, **sizes)


def test_the_mean_of_texts_is_that_of_all_their_characters():
    generator = np.random.default_rng(0)
    characters = generator.integers(0, 40, 50).astype(float)
    bits = 3 * characters + generator.normal(size=50) * characters**0.5
    assert bits_of_texts(bits, characters).mean() == pytest.approx(bits.sum() / characters.sum())


def test_the_spread_of_texts_is_that_of_the_ratio():
    """Against the bootstrap of Σ bits / Σ characters itself."""
    generator = np.random.default_rng(0)
    characters = generator.integers(5, 200, 200).astype(float)
    bits = 3 * characters + generator.normal(size=200) * characters
    draws = generator.integers(0, 200, (4000, 200))
    ratios = bits[draws].sum(1) / characters[draws].sum(1)
    spread = bits_of_texts(bits, characters).std() / 200**0.5
    assert spread == pytest.approx(ratios.std(), rel=0.05)
