"""Digests of whole datasets: those of the rows, in little memory, and which rows are equal."""

from __future__ import annotations

import random
import tracemalloc

import datasets
import numpy as np
import pytest

from hf_meta_adapters.data import _row_digests
from hf_meta_adapters.data._digest import digest
from hf_meta_adapters.data._row_digests import digest_bytes, first_equal, row_digests
from hf_meta_adapters.data.overlap import check_roles
from hf_meta_adapters.data.roles import split_roles
from hf_meta_adapters.data.seeding import stable_seed, stable_seeds
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.study.token_tables import token_table

ROWS = {
    "tokens": [{"input_ids": [5, 6]}, {"input_ids": []}, {"input_ids": [-7]}, {"input_ids": [0]}],
    "no tokens": [{"input_ids": []}, {"input_ids": []}],
    "a row without tokens": [{"input_ids": [5]}, {"input_ids": None}],
    "a missing token": [{"input_ids": [5, None]}, {"input_ids": [5]}],
    "fractions": [{"input_ids": [0.5, 1.0]}],
    "more columns": [{"input_ids": [5], "id": 1}, {"input_ids": [5], "id": 2}],
    "pairs": [{"input_ids": [[5, 6], [7]]}],
    "text": [{"text": "a", "label": 1}, {"text": "é", "label": None}],
    "none": [],
}


def as_bytes(dataset, columns=None):
    return list(digest_bytes(row_digests(dataset, "rows", columns)))


@pytest.mark.parametrize("block", [1, 3, 1000])
@pytest.mark.parametrize("kind", ROWS)
def test_a_table_has_the_digests_of_its_rows(kind, block, monkeypatch):
    monkeypatch.setattr(_row_digests, "_BLOCK", block)
    rows = 3 * ROWS[kind]
    expected = [digest(row) for row in rows]
    table = datasets.Dataset.from_list(rows)
    assert as_bytes(table) == expected
    assert as_bytes(rows) == expected
    assert as_bytes(table.select(range(len(rows) - 1, -1, -1))) == expected[::-1]
    formatted = table.with_format("numpy")
    assert as_bytes(formatted) == [digest(row) for row in formatted]


def test_columns_choose_what_counts():
    table = datasets.Dataset.from_list(ROWS["more columns"])
    assert as_bytes(table, ["id"]) == [digest({"id": 1}), digest({"id": 2})]
    assert as_bytes(table, ["input_ids"]) == 2 * [digest({"input_ids": [5]})]
    assert as_bytes(table.with_format(None, columns=["id"])) == as_bytes(table, ["id"])
    with pytest.raises(DataError, match=r"columns \['context'\]\. Found a row of"):
        as_bytes(table, ["context"])


def test_rows_that_are_made_as_they_are_read_are_read_one_at_a_time():
    table = datasets.Dataset.from_list(ROWS["tokens"])
    seen = []

    def first_token(batch):
        seen.append(len(batch["input_ids"]))
        return {"input_ids": [row[:1] for row in batch["input_ids"]]}

    expected = [digest({"input_ids": row["input_ids"][:1]}) for row in ROWS["tokens"]]
    assert as_bytes(table.with_transform(first_token)) == expected
    assert set(seen) == {1}


@pytest.mark.parametrize("seed", range(5))
def test_equal_rows_are_found(seed):
    numbers = np.random.default_rng(seed).integers(0, 6, (80, 2)).astype(np.uint64)
    pairs = [tuple(row) for row in numbers.tolist()]
    assert first_equal(numbers).tolist() == [pairs.index(pair) for pair in pairs]
    assert first_equal(numbers[:0]).tolist() == []


@pytest.mark.parametrize("seed", range(3))
def test_a_split_stays_what_it_was(seed):
    """As it was computed row by row: a run that is continued has the same roles."""
    draw = random.Random(seed)
    rows = [{"input_ids": draw.choices(range(5, 9), k=4)} for _ in range(300)]
    found = [digest(row) for row in rows]
    distinct = sorted(set(found), key=lambda one: stable_seed(seed, one.hex()))
    meta = set(distinct[: round(0.2 * len(distinct))])
    expected = [row for row, one in zip(rows, found, strict=True) if one in meta]
    for data in (rows, datasets.Dataset.from_list(rows)):
        assert list(split_roles({"sw": data}, meta=0.2, seed=seed).meta["sw"]) == expected


def test_seeds_of_many_are_those_of_each():
    texts = ["", "a", "b1", "é"]
    assert stable_seeds(7, texts).tolist() == [stable_seed(7, text) for text in texts]


def test_long_data_show_progress_and_short_data_none(capsys, monkeypatch):
    assert as_bytes(["a", "b"]) == [digest("a"), digest("b")]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(_row_digests, "_MOST_WITHOUT_PROGRESS", 1)
    row_digests(["a", "b"], "train sw")
    assert "hashing train sw" in capsys.readouterr().err


def peak_of(call):
    """Bytes that Python and numpy hold at most during a call, without Arrow's own."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_grows_by_numbers_and_not_by_rows(tmp_path):
    """An object for each row, its digest alone, would take 57 bytes of a row and its tokens 400."""
    sizes = {size: str(tmp_path / f"{size}.arrow") for size in (3_000, 30_000)}
    tables = {n: token_table(file, n, vocabulary=8000, seed=0) for n, file in sizes.items()}
    for rows in tables.values():
        split_roles({"sw": rows.select(range(100))})  # what is made only once

    small, large = (peak_of(lambda rows=rows: row_digests(rows, "sw")) for rows in tables.values())
    assert (large - small) / 27_000 < 20

    split = (peak_of(lambda rows=rows: split_roles({"sw": rows})) for rows in tables.values())
    small, large = split
    assert (large - small) / 27_000 < 150

    halves = {
        n: (rows.select(range(n // 2)), rows.select(range(n // 2, n))) for n, rows in tables.items()
    }
    small, large = (
        peak_of(lambda one=one, other=other: check_roles({"sw": one}, {"sw": other}))
        for one, other in halves.values()
    )
    assert (large - small) / 27_000 < 150
