"""The normalisation against vectors worked out by hand from the scripts of SQuAD v1.1 and MLQA."""

import random

import pytest

from hf_meta_adapters.evaluation.answers import answer_f1, best_match, exact_match, normalize_answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat's pajamas!", "cats pajamas"),
        ("a an the", ""),
        ("A.A. an-the", "aa anthe"),  # punctuation goes before articles
        ("theatre another", "theatre another"),
        ("the-end", "theend"),
        ("$1,000.50", "100050"),
        ("  tab\tand\nline ", "tab and line"),
        ("“quoted” — dash", "“quoted” — dash"),  # ASCII punctuation only
        ("ÉTÉ", "été"),
        ("...", ""),
        ("", ""),
        ("٣٫١٤", "٣٫١٤"),
        ("ال بيت", "ال بيت"),
    ],
)
def test_squad_normalisation(text, expected):
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "“The” end — of an era…", "end of era"),
        ("en", "a+b=c", "abc"),  # ASCII symbols count as punctuation
        ("en", "5€ or £5", "5€ or £5"),  # other symbols do not
        ("de", "Die Straße des Königs", "straße königs"),
        ("es", "¿Los niños?", "niños"),
        ("vi", "những cái bàn", "bàn"),
        ("ar", "البيت الكبير", "بيت كبير"),
        ("ar", "قال", "ق"),  # as the script of MLQA does: inside a word, too
        ("ar", "«١٨٦١»، سنة؟", "١٨٦١ سنة"),
        ("ar", "ال", ""),
        ("hi", "१८६१ में।", "१८६१ में"),  # the danda is punctuation
        ("hi", "the house", "the house"),
        ("te", "విజయనగర సామ్రాజ్యం.", "విజయనగర సామ్రాజ్యం"),
        ("sw", "A. Kenyatta, Nairobi!", "a kenyatta nairobi"),
        ("ru", "«Анна» — Ахматова", "анна ахматова"),
        ("fr", "L’été, l'hiver et la mer", "été hiver et mer"),
        ("fr", "Les Misérables du XIXe", "misérables xixe"),
        ("fr", "aujourd’hui", "aujourdhui"),
        ("fr", "le", ""),
        ("zh", "北京，中国 2008年", "北 京 中 国 2008 年"),
        ("zh", "NBA球员", "nba 球 员"),
        ("zh-Hant", "臺北", "臺 北"),
        ("ja", "東京タワー", "東 京 タ ワ ー"),
        ("th", "กทม 10", "ก ท ม 10"),
        ("en-GB", "the tea", "tea"),
        ("EN", "the tea", "tea"),
        ("ar", "مُحَمَّد", "مُحَمَّد"),  # marks stay: they are no punctuation
    ],
)
def test_normalisation_of_languages(language, text, expected):
    assert normalize_answer(text, language) == expected


@pytest.mark.parametrize(
    ("prediction", "reference", "language", "match", "f1"),
    [
        ("the Nile", "Nile.", None, 1, 1),
        ("in the river Nile", "Nile river", None, 0, 0.8),
        ("", "Nile", None, 0, 0),
        ("the", "a", None, 1, 0),  # nothing is left of both: equal, but nothing in common
        ("...", "", None, 1, 0),
        ("a b a b c", "b b d", None, 0, 4 / 6),  # bags: b twice; a is an article
        ("نهر النيل", "النيل", "ar", 0, 2 / 3),
        ("النيل", "نيل", "ar", 1, 1),
        ("北京市", "北京", "zh", 0, 0.8),
        ("१८६१", "1861", "hi", 0, 0),
    ],
)
def test_match_and_f1(prediction, reference, language, match, f1):
    assert exact_match(prediction, reference, language) == match
    assert answer_f1(prediction, reference, language) == pytest.approx(f1)
    assert answer_f1(reference, prediction, language) == pytest.approx(f1)


def test_the_best_reference_counts():
    assert best_match(answer_f1, "Nile river", ["Congo", "the Nile", "river Nile"]) == 1
    assert best_match(exact_match, "Nile", []) == 0


PIECES = (
    "a",
    "an",
    "The",
    "the",
    "THEA",
    "U.S.",
    "state-of-the-art",
    "it's",
    "l’eau",
    "ال",
    "бог",
    "2,000",
    "...",
    "—",
    "\t",
    "\u00a0",
    "é",
    "e\u0301",
    "_",
    "$",
)


def test_the_script_of_squad_agrees():
    """transformers 4 has the official script; transformers 5 has dropped it."""
    script = pytest.importorskip(
        "transformers.data.metrics.squad_metrics", reason="NOT CHECKED: transformers 5"
    )
    draw = random.Random(0)
    seen = set()
    for _ in range(3000):
        prediction, reference = (
            draw.choice(("", " ")).join(draw.choice(PIECES) for _ in range(draw.randint(1, 5)))
            for _ in range(2)
        )
        if draw.random() < 0.3:
            prediction = f" {reference.upper()}. "
        assert normalize_answer(prediction) == script.normalize_answer(prediction)
        assert exact_match(prediction, reference) == script.compute_exact(reference, prediction)
        if normalize_answer(reference) and normalize_answer(
            prediction
        ):  # SQuAD 2 scores empty answers, 1.1 has none
            f1 = answer_f1(prediction, reference)
            assert f1 == pytest.approx(script.compute_f1(reference, prediction))
            seen.add(round(f1, 2))
    assert {0.0, 1.0} < seen
