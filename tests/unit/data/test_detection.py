"""Languages of texts, by detectors that are and are not right."""

import sys

import pytest

from hf_meta_adapters.data.detection import LanguageDetection, _identifier
from hf_meta_adapters.errors import ConfigurationError, LanguageError

TEXTS = ["Habari gani?", "How are you?", "Wie geht's?"]


def answers(*tags):
    return lambda texts: list(tags)


@pytest.mark.parametrize(
    ("tags", "known", "expected"),
    [
        (("sw", "en", "de"), ["en", "sw", "de"], ["sw", "en", "de"]),
        (("SW", "en_us", "de-AT"), ["en-US", "sw", "de"], ["sw", "en-US", "de"]),
        (("zh", "zh-Hans", "zh"), ["zh-Hant", "zh-Hans"], ["??", "zh-Hans", "??"]),
        (("zh", "zh-hant", "zh-Hans"), ["en", "zh-Hant"], ["zh-Hant", "zh-Hant", "??"]),
        (("zh", "zh-Hans", "zh-Hant"), ["zh", "zh-Hans"], ["zh", "zh-Hans", "zh"]),
        (("und", "", "xx"), ["en"], ["??", "??", "??"]),
    ],
)
def test_a_tag_is_the_language_that_it_means(tags, known, expected):
    detection = LanguageDetection(answers(*tags), fallback="fall")
    found = detection.languages_of(TEXTS, [*known, "fall"])
    assert found == [language.replace("??", "fall") for language in expected]


def test_rows_without_a_language_are_named():
    detection = LanguageDetection(answers("sw", "en", "de"))
    with pytest.raises(LanguageError, match=r"Found row 2 \('de': \"Wie geht's\?\"\)\. Pass `fall"):
        detection.languages_of(TEXTS, ["en", "sw"])
    with pytest.raises(LanguageError, match="and 2 more"):
        LanguageDetection(answers(*5 * ["de"])).languages_of(["a"] * 5, ["en"])
    with pytest.raises(LanguageError, match="must be one of this model"):
        LanguageDetection(answers("en"), fallback="fr").languages_of(["a"], ["en"])


@pytest.mark.parametrize("bad", ["en", ["en"], [1, 2, 3], None, {"en": 1}])
def test_a_detector_must_tag_each_text(bad):
    with pytest.raises(ConfigurationError, match="a tag for each of the 3 texts"):
        LanguageDetection(lambda texts: bad).languages_of(TEXTS, ["en"])


@pytest.mark.parametrize("bad", ["Habari", None, [1], 3])
def test_texts_must_be_texts(bad):
    with pytest.raises(ConfigurationError, match=r"a list of texts.*Pass `texts=\[...\]`"):
        LanguageDetection(answers("en")).languages_of(bad, ["en"])


def test_without_the_library_the_error_says_how_to_install_it(monkeypatch):
    _identifier.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid", None)
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(ConfigurationError, match=r'pip install "hf-meta-adapters\[detect\]"'):
        LanguageDetection().languages_of(TEXTS, ["en"])


def test_the_ready_detector_knows_the_languages_of_the_verses():
    pytest.importorskip(
        "py3langid", reason="NOT CHECKED: py3langid is absent; the extra `detect` has it"
    )
    from hf_meta_adapters.data import load_local_datasets

    _identifier.cache_clear()
    keys = ["en", "fr", "ru", "sw"]
    verses = load_local_datasets("verses", "test", languages=keys, limit=50)
    for key in keys:
        found = LanguageDetection(fallback="none").languages_of(
            list(verses[key]["text"]), [*keys, "none"]
        )
        assert found.count(key) >= 45

    # a text that tells nothing is in no language
    assert LanguageDetection(fallback="none").languages_of(["?", "12"], [*keys, "none"]) == [
        "none",
        "none",
    ]
