"""Datasets of several languages from a folder of plain files."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import DataError, check_language, check_languages

__all__ = ["load_local_datasets"]

_SUFFIXES = (".jsonl.gz", ".jsonl", ".tsv.gz", ".tsv", ".txt.gz", ".txt")


def load_local_datasets(
    folder: str | Path,
    split: str,
    *,
    languages: Iterable[Language] | None = None,
    limit: int | None = None,
) -> dict[Language, datasets.Dataset]:
    """Read `<folder>/<language>/<split>.<kind>` for each language.

    A line of a `.jsonl` file is one example, an object; of a `.tsv` file `id<TAB>text`; of a `.txt`
    file a text. All are UTF-8, and may be compressed by gzip (`.jsonl.gz`, …). Data on the Hub need
    no such function: `datasets.load_dataset` gives what the tasks take.

    Args:
        folder: The folder that holds one folder for each language.
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
    root = Path(folder)
    if not root.is_dir():
        raise DataError(
            f"`folder` must be a folder that holds one folder for each language. Found no {root}."
            " Look for a misspelling, and where the command was started."
        )
    if Path(split).name != split:
        raise DataError(
            f'`split` must be the name of a file without suffix, such as "test". Found {split!r}.'
        )
    if languages is None:
        keys = sorted(
            path.name for path in root.iterdir() if path.is_dir() and _file(path, split) is not None
        )
    else:
        keys = [*check_languages(languages)]
    if not keys:
        raise DataError(
            f"A folder of data must hold <language>/{split}.<kind>. Found none in {root}. Name the"
            " folder above those of the languages."
        )
    return {check_language(key): _read(root / key, split, limit) for key in keys}


def _file(folder: Path, split: str) -> Path | None:
    return next(
        (path for suffix in _SUFFIXES if (path := folder / f"{split}{suffix}").is_file()), None
    )


def _read(folder: Path, split: str, limit: int | None) -> datasets.Dataset:
    path = _file(folder, split)
    if path is None:
        there = (
            sorted(file.name for file in folder.iterdir()) if folder.is_dir() else "no such folder"
        )
        raise DataError(
            f"A language must have a file {split} with one of {list(_SUFFIXES)}. Found in {folder}:"
            f" {there}."
        )
    parse = _PARSERS[path.name[len(split) :].removesuffix(".gz")]
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_lines(path), 1):
        if limit is not None and len(rows) >= limit:
            break
        if line:
            rows.append(_parsed(parse, line, f"line {number} of {path}"))
    if not rows:
        raise DataError(
            f"A file of data must hold at least one example. Found none in {path}. Leave the"
            " language out, or fill it."
        )
    return datasets.Dataset.from_list(rows)


def _lines(path: Path) -> Iterator[str]:
    done = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                yield line.decode("utf-8").rstrip("\r\n")
                done += 1
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise DataError(
            "A file of data must be UTF-8, and what ends in .gz compressed by gzip. Found after"
            f" line {done} of {path}: {error}. Convert it, for example by `iconv -t UTF-8`, or"
            " download it again."
        ) from error


def _parsed(parse: Callable[[str], Any], line: str, where: str) -> dict[str, Any]:
    try:
        row = parse(line)
    except ValueError as error:
        raise DataError(
            f"A line must have the format that the suffix of its file names. Found {error} in"
            f" {where}. Correct the line, or name the file by its format."
        ) from None
    if not isinstance(row, dict):
        raise DataError(
            f"A line must hold an object. Found `{type(row).__name__}` in {where}. Write for"
            ' example {"text": "..."}.'
        )
    return row


def _parse_pair(line: str) -> dict[str, str]:
    key, tab, text = line.partition("\t")
    if not tab:
        raise ValueError("no tab")
    return {"id": key, "text": text}


_PARSERS: dict[str, Callable[[str], Any]] = {
    ".jsonl": json.loads,
    ".tsv": _parse_pair,
    ".txt": lambda line: {"text": line},
}
