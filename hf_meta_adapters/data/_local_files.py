"""Datasets of several languages from a folder of plain files."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

import datasets

from hf_meta_adapters._typing import Language
from hf_meta_adapters.bundled.folders import texts_folder
from hf_meta_adapters.errors import DataError, check_language, check_languages

__all__ = ["load_local_datasets"]

_SUFFIXES = (".jsonl.gz", ".jsonl", ".tsv.gz", ".tsv", ".txt.gz", ".txt")

Row: TypeAlias = dict[str, object]


def load_local_datasets(
    folder: str | Path,
    split: str,
    *,
    languages: Iterable[Language] | None = None,
    limit: int | None = None,
) -> dict[Language, datasets.Dataset]:
    """Read `<folder>/<language>/<split>.<suffix>` for each language.

    A line of a `.jsonl` file is one example, an object; of a `.tsv` file `id<TAB>text`; of a `.txt`
    file a text. All are UTF-8, and may be compressed by gzip (`.jsonl.gz`, …). Data on the Hub need
    no such function: `datasets.load_dataset` returns what the tasks take.

    Args:
        folder: The folder that holds one folder for each language; `"verses"` for the bundled
            verses in English, French, Russian and Swahili, with the splits train, meta, valid and
            test.
        split: Name of the files without their suffix, such as "train" or "test".
        languages: The languages; by default every folder that has such a file.
        limit: Examples of each language at most, from the beginning.

    Returns:
        Language → dataset.

    Raises:
        DataError: If a file is missing, empty or malformed; the message names it.
        LanguageError: If a language key is malformed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     (Path(folder) / "sw").mkdir()
        ...     _ = (Path(folder) / "sw" / "test.txt").write_text("Habari ya leo", encoding="utf-8")
        ...     load_local_datasets(folder, "test")["sw"][0]
        {'text': 'Habari ya leo'}
    """
    root = texts_folder(folder)
    if not root.is_dir():
        raise DataError(
            f"`folder` must be a folder that holds one folder for each language. Found no {root}."
            " Check the spelling, and the folder in which the command was started."
        )

    # A name alone: nothing may lead out of the folder.
    if Path(split).name != split:
        raise DataError(
            '`split` must be the name of a file without suffix, such as "test". Found'
            f" {split!r}. Put the rest of the path into `folder`."
        )

    keys = languages_with(root, split) if languages is None else check_languages(languages)
    if not keys:
        raise DataError(
            f"A folder of data must hold <language>/{split}.<suffix>. Found none in {root}. Pass"
            " the folder above those of the languages."
        )

    return {check_language(key): _read(root / key, split, limit) for key in keys}


def languages_with(root: Path, split: str) -> tuple[Language, ...]:
    """Return the names of the folders that hold a file of the split, in alphabetical order."""
    folders = [path for path in root.iterdir() if path.is_dir()]
    return tuple(sorted(path.name for path in folders if _file(path, split) is not None))


def _file(folder: Path, split: str) -> Path | None:
    for suffix in _SUFFIXES:
        path = folder / f"{split}{suffix}"
        if path.is_file():
            return path

    return None


def _read(folder: Path, split: str, limit: int | None) -> datasets.Dataset:
    path = _file(folder, split)
    if path is None:
        raise DataError(
            f"A language must have a file {split} with one of the suffixes {list(_SUFFIXES)}. Found"
            f" in {folder}: {_contents(folder)}. Add the file, or remove the language."
        )

    parse = _PARSERS[path.name[len(split) :].removesuffix(".gz")]

    rows: list[Row] = []
    for number, line in enumerate(_lines(path), 1):
        if limit is not None and len(rows) >= limit:
            break

        if line:
            rows.append(_parse(parse, line, f"line {number} of {path}"))

    if not rows:
        raise DataError(
            f"A file of data must hold at least one example. Found none in {path}. Remove the"
            " language, or fill the file."
        )

    return datasets.Dataset.from_list(rows)


def _contents(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"

    return str(sorted(file.name for file in folder.iterdir()))


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file; only a line feed ends one, as texts may hold other separators."""
    lines_read = 0
    try:
        with _open(path) as file:
            for line in file:
                yield line.decode("utf-8").rstrip("\r\n")
                lines_read += 1
    # Damage to a compressed file shows as any of the last three, depending on where it is.
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise DataError(
            "A file of data must be UTF-8 text, compressed by gzip if its name ends in .gz. Found"
            f" after line {lines_read} of {path}: {error}. Convert it, for example by"
            " `iconv -t UTF-8`, or download it again."
        ) from error


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))

    return path.open("rb")


def _parse(parse: Callable[[str], object], line: str, where: str) -> Row:
    try:
        row = parse(line)
    except ValueError as error:
        # Without its cause, which the message quotes.
        raise DataError(
            "A line must have the format that the suffix of its file stands for. Found"
            f" {error} in {where}. Correct the line, or rename the file to match its format."
        ) from None

    if not isinstance(row, dict):
        raise DataError(
            f"A line must hold an object. Found `{type(row).__name__}` in {where}. Use a line such"
            ' as {"text": "..."}.'
        )

    return row


def _parse_pair(line: str) -> Row:
    key, tab, text = line.partition("\t")
    if not tab:
        raise ValueError("no tab")

    return {"id": key, "text": text}


def _parse_text(line: str) -> Row:
    return {"text": line}


_PARSERS: dict[str, Callable[[str], object]] = {
    ".jsonl": json.loads,
    ".tsv": _parse_pair,
    ".txt": _parse_text,
}
