"""`remove_language` with the library `adapters`: nothing of the language is left, also in pools."""

from __future__ import annotations

import pytest

from hf_meta_adapters import LanguageAdapterModel
from tests.adapted import outputs, same, trained_as_owned
from tests.tiny import tiny

from .methods import LANGUAGES, adapted, stirred

METHODS = ("seq_bn_inv", "compacter", "lora", "prefix", "loreft", "union")
"""Each kind of place in which the library keeps parameters."""


@pytest.mark.parametrize("method", METHODS)
def test_the_others_compute_what_they_did_and_nothing_is_left_of_it(method: str, tmp_path) -> None:
    cell = tiny("bert")
    model = stirred(adapted(cell, method)).eval()
    goes, *stay = LANGUAGES
    before = {key: outputs(model, cell.batch(), language=key) for key in stay}
    own = set(model._ownership.created[goes])
    adapter = model.backend.adapter(goes)

    model.set_language(goes)
    model.remove_language(goes)
    assert own
    assert not any(adapter in name.split(".") for name in model.state_dict())
    assert trained_as_owned(model)
    assert model.language is None
    for key in stay:
        assert same(outputs(model, cell.batch(), language=key), before[key])

    model.save_pretrained(tmp_path)
    loaded = LanguageAdapterModel.from_pretrained(tmp_path)
    assert loaded.languages == tuple(stay)
    assert same(outputs(loaded, cell.batch(), language=stay[0]), before[stay[0]])

    model.add_language(goes)
    assert set(model._ownership.created[goes]) == own
