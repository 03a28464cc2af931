"""Which errors over the content of a file become errors of this package, and which stay."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import OfflineModeIsEnabled

from hf_meta_adapters.errors import HubError, LanguageError
from hf_meta_adapters.hub.base_model import body_name
from hf_meta_adapters.hub.foreign_errors import reading


def raised_by_a_library() -> None:
    json.loads("[" * 99_999)


def test_an_error_of_a_library_names_the_file_and_keeps_its_cause() -> None:
    with (
        pytest.raises(
            HubError,
            match=r"^It must be so\. Found in here: RecursionError: max.*\. Do it again\.$",
        ) as error,
        reading("here", "It must be so.", "Do it again"),
    ):
        raised_by_a_library()
    assert isinstance(error.value.__cause__, RecursionError)


def test_a_long_error_is_shortened() -> None:
    with pytest.raises(HubError) as error, reading("here", "A.", "B"):
        raise ValueError("x" * 10**6)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "error",
    [LanguageError("ours"), MemoryError(), torch.OutOfMemoryError(), KeyboardInterrupt()],
)
def test_other_errors_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, reading("here", "A.", "B"):
        raise error
    assert caught.value is error


def test_a_fault_of_this_package_is_not_blamed_on_a_file() -> None:
    model: Any = None
    with pytest.raises(AttributeError), reading("here", "A.", "B"):
        body_name(model)


def test_an_error_of_the_hub_is_named_as_such() -> None:
    failure = OSError("we could not connect")
    failure.__cause__ = OfflineModeIsEnabled("offline")
    with (
        pytest.raises(HubError, match=r"^The files must be reachable.*OSError: we could.*HF_HUB_"),
        reading("here", "A.", "B"),
    ):
        raise failure


def test_a_missing_file_is_not_an_error_of_the_hub(tmp_path: Path) -> None:
    with (
        pytest.raises(HubError, match=r"^A\. Found in .*FileNotFoundError"),
        reading(tmp_path, "A.", "B"),
    ):
        (tmp_path / "file").read_text()
