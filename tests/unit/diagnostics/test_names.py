"""Parts of results live in the module of their result; the package still leads there."""

import pytest

from hf_meta_adapters import diagnostics
from hf_meta_adapters.diagnostics.capacity_plan import LayerNeed
from hf_meta_adapters.diagnostics.conflict_matrix import Conflict
from hf_meta_adapters.diagnostics.interference import Interference


@pytest.mark.parametrize("part", [Conflict, Interference, LayerNeed])
def test_the_warning_names_the_module_to_import_from(part):
    with pytest.warns(DeprecationWarning, match=rf"Import it from `{part.__module__}`"):
        assert getattr(diagnostics, part.__name__) is part
    assert not part.__module__.rpartition(".")[2].startswith("_")
