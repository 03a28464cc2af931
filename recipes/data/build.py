"""Rebuild the bundled verses from a folder of parallel text.

Only ids of the form `bible:<book>.<chapter>.<verse>` are taken: public-domain and CC0 translations,
aligned by verse. A verse is used only if all four languages have it, so everything comes from the
New Testament, line k of a role is the same verse in every language, and no role differs from
another in domain.

Needs:    SOURCE/<language>/{train,valid,test}.tsv.gz, a line `id<TAB>text`, for en, fr, ru and sw.
Takes:    seconds.
Command:  python recipes/data/build.py SOURCE
Override: --output FOLDER to write elsewhere; TRAIN_VERSES in this file for other sizes.
"""

import argparse
import gzip
import hashlib
from pathlib import Path

TRAIN_VERSES = {"en": 6000, "fr": 6000, "ru": 6000, "sw": 1500}  # sw is low-resource by choice
META_VERSES = 600
SPLITS = ("train", "valid", "test")  # of the source, which cuts by chapter
ROLES = ("train", "meta", "valid", "test")

Verses = dict[str, dict[str, str]]  # id → language → text
Lines = dict[str, dict[str, list[str]]]  # language, or "ids" → role → lines


def read_verses(source: Path, split: str) -> Verses:
    """The verses of a split that every language has."""
    by_language = {}
    for language in TRAIN_VERSES:
        path = source / language / f"{split}.tsv.gz"
        by_language[language] = {}

        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
            for line in lines:
                if line.startswith("bible:"):
                    identifier, text = line.rstrip("\n").split("\t", 1)
                    by_language[language][identifier.removeprefix("bible:")] = text

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
    """A text without case, spaces and punctuation: two texts with equal letters count as equal."""
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
    """The verses whose text is in none of the others, in any language.

    The synoptic gospels share some.
    """
    seen = set()
    for other in others:
        for texts in other.values():
            seen |= {(language, letters(text)) for language, text in texts.items()}

    unique = {}
    for verse, texts in verses.items():
        keys = {(language, letters(text)) for language, text in texts.items()}
        if not keys & seen:
            unique[verse] = texts

    return unique


def split_roles(source: Path) -> dict[str, Verses]:
    """Role → verses; an earlier role never holds the text of a later one."""
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

    # Without name and time of the file, equal lines make equal bytes.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())


def build(source: Path, output: Path) -> Lines:
    """Write every role of every language, and the ids; return the lines."""
    lines: Lines = {name: {} for name in ("ids", *TRAIN_VERSES)}
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

        # Languages with fewer verses have the first ones, so that line k is the same verse in all.
        lines["ids"][role] = ids[: max(len(lines[language][role]) for language in TRAIN_VERSES)]

    for name, roles in lines.items():
        # The ids are no texts, and must not be taken for those of one more language.
        ending = ".gz" if name == "ids" else ".txt.gz"
        for role, content in roles.items():
            write_lines(output / name / f"{role}{ending}", content)

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

    lines = build(arguments.source, arguments.output)
    for language in TRAIN_VERSES:
        counts = [f"{len(lines[language][role]):,}" for role in ROLES]
        print(f"| {language} | {' | '.join(counts)} |")


if __name__ == "__main__":
    main()
