"""Rebuild the bundled verses from a folder of parallel text.

Needs:   `<source>/<language>/{train,valid,test}.tsv.gz` with lines `id<TAB>text`, for en, fr, ru and sw
Command: python recipes/data/build.py <source>
Change:  TRAIN_VERSES for other sizes; `--output <folder>` to write elsewhere

Only ids of the form `bible:<book>.<chapter>.<verse>` are taken: public-domain and CC0 translations,
aligned by verse. A verse is used only if all four languages have it, so everything comes from the
New Testament, line k of a role is the same verse in every language, and no role differs from
another in domain.
"""

import argparse
import gzip
import hashlib
from pathlib import Path

TRAIN_VERSES = {"en": 6000, "fr": 6000, "ru": 6000, "sw": 1500}  # sw is low-resource by choice
META_VERSES = 600
SPLITS = ("train", "valid", "test")  # as the source has them, cut by chapter
ROLES = ("train", "meta", "valid", "test")

Verses = dict[str, dict[str, str]]  # id -> language -> text


def read_verses(source: Path, split: str) -> Verses:
    """The verses of a split that every language has."""
    by_language = {}
    for language in TRAIN_VERSES:
        with gzip.open(
            source / language / f"{split}.tsv.gz", "rt", encoding="utf-8", newline="\n"
        ) as lines:
            rows = (line.rstrip("\n").split("\t", 1) for line in lines if line.startswith("bible:"))
            by_language[language] = {
                identifier.removeprefix("bible:"): text for identifier, text in rows
            }
    common = set.intersection(*(set(verses) for verses in by_language.values()))
    return {
        verse: {language: by_language[language][verse] for language in TRAIN_VERSES}
        for verse in common
    }


def rank(name: str) -> bytes:
    """A fixed pseudo-random order of names, the same on every machine."""
    return hashlib.sha256(name.encode()).digest()


def chapter_of(verse: str) -> str:
    return verse.rpartition(".")[0]


def letters(text: str) -> str:
    """A text without case, spaces and punctuation: two texts with the same letters count as equal."""
    return "".join(filter(str.isalnum, text.casefold()))


def meta_chapters(verses: Verses) -> set[str]:
    """Whole chapters, in hash order, until they hold META_VERSES verses."""
    chosen: set[str] = set()
    for chapter in sorted({chapter_of(verse) for verse in verses}, key=rank):
        if sum(chapter_of(verse) in chosen for verse in verses) >= META_VERSES:
            break
        chosen.add(chapter)
    return chosen


def without_repeats(verses: Verses, others: list[Verses]) -> Verses:
    """The verses whose text occurs in none of the others, in any language (the synoptic gospels share some)."""
    seen = {
        (language, letters(text))
        for other in others
        for texts in other.values()
        for language, text in texts.items()
    }
    return {
        verse: texts
        for verse, texts in verses.items()
        if not any((language, letters(text)) in seen for language, text in texts.items())
    }


def split_roles(source: Path) -> dict[str, Verses]:
    """Role -> verses; an earlier line of the answer never holds the text of a later one."""
    train, valid, test = (read_verses(source, split) for split in SPLITS)
    chapters = meta_chapters(train)
    meta = {verse: texts for verse, texts in train.items() if chapter_of(verse) in chapters}
    rest = {verse: texts for verse, texts in train.items() if chapter_of(verse) not in chapters}
    valid = without_repeats(valid, [test])
    meta = without_repeats(meta, [valid, test])
    rest = without_repeats(rest, [meta, valid, test])
    return {"train": rest, "meta": meta, "valid": valid, "test": test}


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as raw, gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())


def build(source: Path, output: Path) -> dict[str, dict[str, list[str]]]:
    """Write every role of every language, and the ids; return the lines, language -> role -> lines."""
    lines: dict[str, dict[str, list[str]]] = {name: {} for name in ("ids", *TRAIN_VERSES)}
    for role, verses in split_roles(source).items():
        ids = sorted(verses, key=rank)
        for language, size in TRAIN_VERSES.items():
            taken = {"train": size, "meta": META_VERSES}.get(role, len(ids))
            if taken > len(ids):
                raise SystemExit(
                    f"{role} of {language} must have {taken} verses. Found {len(ids)}. Ask for"
                    " fewer."
                )
            lines[language][role] = [verses[verse][language] for verse in ids[:taken]]
        lines["ids"][role] = ids[: max(len(lines[language][role]) for language in TRAIN_VERSES)]
    for name, roles in lines.items():
        for role, content in roles.items():
            write_lines(output / name / f"{role}.txt.gz", content)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source", type=Path, help="folder with <language>/{train,valid,test}.tsv.gz"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    for name, roles in build(arguments.source, arguments.output).items():
        if name != "ids":
            print(f"| {name} | " + " | ".join(f"{len(roles[role]):,}" for role in ROLES) + " |")


if __name__ == "__main__":
    main()
