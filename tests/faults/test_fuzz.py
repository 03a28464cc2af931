"""A few dozen mutants of saved models; `python -m tests.faults.fuzz` tries thousands."""

from __future__ import annotations

import os
import warnings

import huggingface_hub.constants
import pytest
import transformers

from tests.faults import fuzz
from tests.faults.mutations import PATTERNS

MUTANTS = 63


@pytest.fixture(scope="module")
def kinds():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fuzz.make_kinds()


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    level = transformers.utils.logging.get_verbosity()
    yield
    transformers.utils.logging.set_verbosity(level)


def test_mutants_are_refused_or_load_as_before(kinds, monkeypatch):
    # a machine that runs other tests as well may need longer
    monkeypatch.setattr(fuzz, "SECONDS", 60.0)
    outcomes = fuzz.run(kinds, range(MUTANTS), seed=0)
    assert len(outcomes) == MUTANTS
    failures = [outcome for outcome in outcomes if outcome.outcome in fuzz.FAILURES]
    assert not failures, "\n".join(map(str, failures))
    # of a fuzzer that changes nothing, or breaks everything, nothing is learnt
    assert {fuzz.REFUSED, fuzz.SAME} <= {outcome.outcome for outcome in outcomes}


def test_a_family_that_is_not_changed_loads_as_before(kinds, tmp_path):
    for number, kind in enumerate(kinds):
        mutant = fuzz.Mutant(dict(kind.files))
        assert fuzz.signed(kind.files) == kind.files
        area = tmp_path / f"{number}"
        assert fuzz.try_once(kind, mutant, mutant.files, area) == (fuzz.SAME, "")


def test_failures_are_seen(kinds, monkeypatch):
    """A loader that is broken in every way that counts."""

    class Broken:
        @staticmethod
        def from_pretrained(folder):
            number = int(folder.parent.name)
            if number == 0:
                raise KeyError("foreign")
            if number == 1:
                os._exit(3)
            if number == 2:
                (folder / "written").write_text("")
                raise fuzz.MetaAdapterError("Found")
            if number == 3:
                raise fuzz.MetaAdapterError("no")
            while True:
                pass

    monkeypatch.setattr(fuzz, "LanguageAdapterModel", Broken)
    monkeypatch.setattr(fuzz, "SECONDS", 1.0)
    outcomes = fuzz.run(kinds, range(5), seed=0)
    found = [outcome.outcome for outcome in outcomes]
    assert found == [fuzz.FOREIGN, fuzz.DIED, fuzz.OUTSIDE, fuzz.UNCLEAR, fuzz.HANG]
    assert "| HANG |" in fuzz.table(outcomes)


def test_patterns_of_the_fuzzer_include_evil_ones():
    assert any("+)+" in pattern for pattern in PATTERNS)
