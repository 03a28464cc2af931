"""Language keys, and what the messages about them say."""

from __future__ import annotations

import pytest
import torch

from hf_meta_adapters import errors
from hf_meta_adapters.errors import (
    LanguageError,
    check_known_language,
    check_language,
    check_languages,
)


@pytest.mark.parametrize(
    "key", ["en", "zh-Hant", "pt-BR", "sr_Latn", "x", "aze-Latn-x-1", "es-419", "EN", "a" * 64]
)
def test_a_tag_is_a_key(key: str) -> None:
    assert check_language(key) == key


@pytest.mark.parametrize(
    "key",
    ["", " ", "en ", "a/b", "a\\b", "..", ".", "../evil", "/etc", "~", "C:", "a.b", "-en", "en-", "e--n", "_en", "en\n",
     "español", "中文", "en\x00", "a" * 65, "%2e%2e", "$HOME", "en sw"],
)  # fmt: skip
def test_what_is_no_name_of_a_folder_and_a_module_is_no_key(key: str) -> None:
    with pytest.raises(
        LanguageError, match=r"^A language key must be made of .*Found .*\. Write for example"
    ):
        check_language(key)


@pytest.mark.parametrize("key", [None, 3, ("en",), b"en", torch.zeros(100, 100)])
def test_a_key_is_a_string(key: object) -> None:
    with pytest.raises(
        LanguageError, match=f"must be a string. Found .*`{type(key).__name__}`. Write"
    ) as caught:
        check_language(key)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("key", ["shared", "Shared", "SHARED"])
def test_the_folder_of_what_is_shared_is_no_key(key: str) -> None:
    with pytest.raises(
        LanguageError, match=f"must not be the name of the folder .*Found '{key}'. Write another"
    ):
        check_language(key)


@pytest.mark.parametrize(
    "keys",
    [["sw", "en"], ("sw", "en"), {"sw": 1, "en": 2}, {"sw": 1, "en": 2}.keys(), iter(["sw", "en"])],
)
def test_keys_keep_their_order(keys) -> None:
    assert check_languages(keys) == ("sw", "en")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("en", r"must be a list of keys. Found the string 'en'. Write \['en'\]."),
        ([], "must name at least one language. Found none. Write"),
        (["en", "sw", "en"], r"once.*Found 'en' and 'en' in \['en', 'sw', 'en'\]. Leave one"),
        (["zh-Hant", "zh-hant"], "upper and lower case. Found 'zh-Hant' and 'zh-hant'"),
        ({"en"}, r"whose order is the same in every process. Found {'en'} of type `set`. Write"),
        (frozenset(["en"]), "`frozenset`"),
        (None, "Found None of type `NoneType`. Write"),
        (["en", 5], "must be a string. Found 5"),
    ],
)
def test_wrong_lists_are_refused(keys, message: str) -> None:
    with pytest.raises(LanguageError, match=message):
        check_languages(keys)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("swa", "'sw'"),
        ("zh-hant", "'zh-Hant'"),
        ("zh_Hant", "'zh-Hant'"),
        ("EN", "'en'"),
        ("te", None),
    ],
)
def test_an_unknown_language_is_refused_with_the_nearest(key: str, hint: str | None) -> None:
    known = ["en", "sw", "zh-Hant"]
    with pytest.raises(LanguageError) as caught:
        check_known_language(key, known)
    end = f" Did you mean {hint}?" if hint else ""
    assert (
        str(caught.value) == f"The language must be one of this model: {known}. Found {key!r}.{end}"
    )
    assert all(check_known_language(one, iter(known)) == one for one in known)


def test_every_error_is_public_and_has_a_builtin_base() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    assert len(kinds) == 8
    assert all(issubclass(kind, errors.MetaAdapterError) for kind in kinds)
    assert all(
        issubclass(kind, (ValueError, ArithmeticError))
        for kind in kinds
        if kind is not errors.MetaAdapterError
    )
