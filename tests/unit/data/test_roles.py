"""Splitting text into roles, and checking roles that were given."""

from __future__ import annotations

import random

import datasets
import pytest

from hf_meta_adapters.data.overlap import check_roles
from hf_meta_adapters.data.roles import split_roles
from hf_meta_adapters.errors import ConfigurationError, DataError, LanguageError

from .test_language_datasets import MAP_STYLE, STREAMING, Stream

SWAHILI = [{"text": f"mstari {row}"} for row in range(100)]


def texts(dataset):
    return [dataset[row]["text"] for row in range(len(dataset))]


def roles_of(rows, **options):
    found = split_roles({"sw": rows}, **options)
    return [
        texts(several["sw"]) if several else []
        for several in (found.train, found.meta, found.selection)
    ]


@pytest.mark.parametrize("seed", range(30))
def test_shares_are_exact_and_equal_rows_stay_together(seed):
    rng = random.Random(seed)
    distinct = rng.randint(20, 300)
    rows = [{"text": str(rng.randrange(distinct))} for _ in range(3 * distinct)]
    distinct = len({row["text"] for row in rows})
    shares = {"meta": rng.uniform(0.05, 0.4), "selection": rng.choice([0, rng.uniform(0.05, 0.4)])}
    train, meta, selection = roles_of(rows, seed=seed, **shares)
    assert sorted(train + meta + selection) == sorted(row["text"] for row in rows)
    assert not set(train) & set(meta) | set(meta) & set(selection) | set(train) & set(selection)
    assert abs(len(set(meta)) - shares["meta"] * distinct) <= 0.5
    assert abs(len(set(selection)) - shares["selection"] * distinct) <= 0.5
    in_order = [row["text"] for row in rows if row["text"] in set(meta)]
    assert meta == in_order


@pytest.mark.parametrize("kind", MAP_STYLE)
def test_all_map_style_data_split_alike(kind):
    expected = roles_of(SWAHILI, selection=0.05)
    found = split_roles({"sw": MAP_STYLE[kind](SWAHILI)}, selection=0.05)
    assert [
        texts(several["sw"]) for several in (found.train, found.meta, found.selection)
    ] == expected
    assert [len(several) for several in expected] == [85, 10, 5]
    if kind == "datasets":
        assert isinstance(found.meta["sw"], datasets.Dataset)


def test_the_split_depends_on_content_and_seed_only():
    def as_sets(rows, seed=0):
        return [set(several) for several in roles_of(rows, seed=seed)]

    assert as_sets(SWAHILI) == as_sets(SWAHILI[::-1])
    assert as_sets(SWAHILI) != as_sets(SWAHILI, seed=1)


def test_rows_that_are_equal_in_the_named_columns_stay_together():
    rows = [{"context": str(row // 4), "text": str(row)} for row in range(200)]
    train, meta, _ = roles_of(rows, meta=0.2, columns=["context"])
    assert not {int(text) // 4 for text in train} & {int(text) // 4 for text in meta}
    assert len(meta) == 40


def test_small_languages_get_one_row_for_each_role_or_are_refused():
    assert [len(several) for several in roles_of(SWAHILI[:3], meta=0.1, selection=0.05)] == [
        1,
        1,
        1,
    ]
    with pytest.raises(DataError, match=r"'sw' must be enough for 3 roles\. Found 2 distinct rows"):
        roles_of(SWAHILI[:2] * 10, meta=0.1, selection=0.05)
    with pytest.raises(DataError, match="Found 0 distinct rows"):
        roles_of([], meta=0)


def test_a_share_of_zero_is_no_role():
    found = split_roles({"sw": SWAHILI}, meta=0, selection=0.1)
    assert found.meta == {}
    assert (len(found.train["sw"]), len(found.selection["sw"])) == (90, 10)


@pytest.mark.parametrize(
    "shares", [{"meta": -0.1}, {"meta": 1.0}, {"meta": 0.5, "selection": 0.5}, {"meta": 10}]
)
def test_shares_that_leave_nothing_to_train_on_are_refused(shares):
    with pytest.raises(ConfigurationError, match="leave some to train on"):
        split_roles({"sw": SWAHILI}, **shares)


def test_streams_cannot_be_split_and_malformed_languages_are_refused():
    with pytest.raises(DataError, match=r"streaming dataset for 'sw'.*`meta_dataset`"):
        split_roles({"sw": Stream(SWAHILI)})
    with pytest.raises(LanguageError, match="s/w"):
        split_roles({"s/w": SWAHILI})


def test_what_was_split_passes_the_check():
    found = split_roles({"sw": SWAHILI * 2, "te": SWAHILI[:50]}, selection=0.1)
    check_roles(found.train, found.meta, found.selection)


@pytest.mark.parametrize("kind", MAP_STYLE)
@pytest.mark.parametrize(
    ("train", "meta", "selection", "message"),
    [
        (
            range(10),
            [20, 3, 4, 3],
            None,
            r"Found 3 rows of the meta data of 'te'.*row 1 of meta and row 3 of train",
        ),
        (
            range(10),
            [20],
            [30, 9],
            r"Found 1 rows of the selection data of 'te'.*row 1 of selection and row 9 of train",
        ),
        (
            range(10),
            [20, 21],
            [30, 21],
            r"Found 1 rows of the selection.*row 1 of selection and row 1 of meta",
        ),
        (
            range(10),
            None,
            [30, 0],
            r"Found 1 rows of the selection.*row 1 of selection and row 0 of train",
        ),
    ],
)
def test_overlap_is_refused_with_language_count_and_a_pair(kind, train, meta, selection, message):
    def data(numbers):
        return (
            None
            if numbers is None
            else {"te": MAP_STYLE[kind]([{"text": str(number)} for number in numbers])}
        )

    with pytest.raises(DataError, match=message):
        check_roles(data(train), data(meta), data(selection))


def test_overlap_is_that_of_one_language():
    """Equal rows of different languages, and of one role, are allowed."""
    check_roles(
        {"te": ["a", "a"], "da": ["b"]}, {"te": ["b"], "da": ["a"]}, {"te": ["c"], "in": ["a"]}
    )
    check_roles({"te": [{"id": 1, "text": "a"}]}, {"te": [{"id": 2, "text": "a"}]})
    with pytest.raises(DataError, match="Found 1 rows"):
        check_roles(
            {"te": [{"id": 1, "text": "a"}]}, {"te": [{"id": 2, "text": "a"}]}, columns=["text"]
        )


@pytest.mark.parametrize(
    ("train", "meta", "selection", "message"),
    [
        ({"te": [1], "da": [2]}, {"te": [3]}, None, r"Found \['da'\] in train alone"),
        ({"te": [1]}, {"te": [3], "da": [2]}, None, r"Found \['da'\] in meta alone"),
        ({"te": [1]}, {}, None, r"Found \['te'\] in train alone"),
        ({"te": []}, {"te": [3]}, None, "train data of 'te'"),
        ({"te": [1]}, {"te": []}, None, "meta data of 'te'"),
        ({"te": [1]}, None, {"da": []}, "selection data of 'da'"),
    ],
)
def test_missing_and_empty_languages_are_refused(train, meta, selection, message):
    with pytest.raises(DataError, match=message):
        check_roles(train, meta, selection)


def test_malformed_and_absent_languages_are_refused():
    for train in ({}, {"t.e": [1]}):
        with pytest.raises(LanguageError):
            check_roles(train, None)


@pytest.mark.parametrize("kind", STREAMING)
def test_streams_are_not_compared(kind):
    check_roles({"te": STREAMING[kind](SWAHILI)}, {"te": SWAHILI}, {"te": STREAMING[kind](SWAHILI)})
    with pytest.raises(DataError, match="row 0 of selection and row 0 of train"):
        check_roles({"te": SWAHILI}, {"te": STREAMING[kind](SWAHILI)}, {"te": SWAHILI})
