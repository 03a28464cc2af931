import gzip
import json

import pytest

from hf_meta_adapters.data import load_local_datasets
from hf_meta_adapters.errors import DataError, LanguageError

ROWS = [{"tokens": ["వ", "b"], "tags": ["NOUN", "X"]}, {"tokens": ["c"], "tags": ["X"]}]


def write(folder, language, name, text):
    (folder / language).mkdir(exist_ok=True)
    opened = gzip.open if name.endswith(".gz") else open
    with opened(folder / language / name, "wt", encoding="utf-8") as file:
        file.write(text)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_every_kind_of_file(tmp_path, ending):
    write(tmp_path, "te", f"test.jsonl{ending}", "\n".join(json.dumps(row) for row in ROWS) + "\n")
    write(tmp_path, "sw", f"test.tsv{ending}", "v1\tmoja\tmbili\nv2\ttatu\n")
    write(tmp_path, "zh-Hant", f"test.txt{ending}", "臺北\u2028x\n\nb")
    write(tmp_path, "ru", f"train.txt{ending}", "да\n")
    data = load_local_datasets(tmp_path, "test")
    assert list(data) == ["sw", "te", "zh-Hant"]
    assert data["te"].to_list() == ROWS
    assert data["sw"].to_list() == [
        {"id": "v1", "text": "moja\tmbili"},
        {"id": "v2", "text": "tatu"},
    ]
    assert data["zh-Hant"]["text"][:] == ["臺北\u2028x", "b"]  # a line ends with a line feed only
    assert len(load_local_datasets(tmp_path, "test", languages=["te"], limit=1)["te"]) == 1


def test_refusals(tmp_path):
    write(tmp_path, "en", "test.jsonl", '{"a": 1}\n{"a": \n')
    write(tmp_path, "fr", "test.jsonl", "[1]\n")
    write(tmp_path, "ru", "test.tsv", "no tab\n")
    write(tmp_path, "hi", "test.txt", "\n")
    for language, message in [
        ("en", "in line 2 of .*test.jsonl"),
        ("fr", "must hold an object. Found `list` in line 1"),
        ("ru", "Found no tab in line 1"),
        ("hi", "at least one example. Found none in"),
        ("sw", "Found in .*sw: no such folder"),
    ]:
        with pytest.raises(DataError, match=message):
            load_local_datasets(tmp_path, "test", languages=[language])
    with pytest.raises(DataError, match=r"must have a file dev .* \['test.jsonl'\]"):
        load_local_datasets(tmp_path, "dev", languages=["en"])
    with pytest.raises(DataError, match="hold <language>/dev"):
        load_local_datasets(tmp_path, "dev")
    with pytest.raises(DataError, match=r"Found no .*nowhere"):
        load_local_datasets(tmp_path / "nowhere", "test")
    for split in ("../secret", "a/b"):
        with pytest.raises(DataError, match="must be the name of a file"):
            load_local_datasets(tmp_path, split)
    with pytest.raises(LanguageError, match=r"Found '\.\./en'"):
        load_local_datasets(tmp_path, "test", languages=["../en"])
