"""What the client of the Hub raises: no answer is told apart from an answer that is no."""

import socket
from collections.abc import Callable, Iterator

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hf_meta_adapters import list_languages
from hf_meta_adapters.errors import DataError, HubError
from hf_meta_adapters.hub.client import NO_ANSWER, speaking_of
from tests.adapted import adapted
from tests.hub_server import CUT, HubServer

FAMILY = "anna/family"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)


@pytest.fixture
def cached(hub: HubServer) -> HubServer:
    """A Hub whose family is in the cache of the client."""
    adapted("bert", "lora").push_to_hub(FAMILY)
    assert list_languages(FAMILY) == ("en", "sw")
    return hub


def raised(call: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its type is what the test is about
        call()
    return caught.value


def test_no_connection_and_a_timeout_are_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.1)
    monkeypatch.setattr("huggingface_hub.constants.DEFAULT_REQUEST_TIMEOUT", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections, and never says a word
        nobody = "http://127.0.0.1:9"
        for endpoint in (nobody, f"http://127.0.0.1:{silent.getsockname()[1]}"):
            api = HfApi(endpoint=endpoint)
            error = raised(lambda api=api: api.repo_info("a/b", timeout=0.1))
            assert isinstance(error, NO_ANSWER), repr(error)
            assert not isinstance(error, HfHubHTTPError)


def test_offline_mode_is_no_answer(monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = raised(lambda: HfApi(endpoint=hub.endpoint).repo_info("a/b"))
    assert isinstance(error, NO_ANSWER)
    assert isinstance(error, OfflineModeIsEnabled)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [(500, HfHubHTTPError), (429, HfHubHTTPError), (403, HfHubHTTPError)],
)
def test_an_error_that_the_hub_sends_is_an_answer(
    status: int, kind: type[Exception], hub: HubServer
) -> None:
    hub.repository(FAMILY)
    hub.fail("GET", "/api/models/", status, times=9)
    error = raised(lambda: HfApi(endpoint=hub.endpoint).repo_info(FAMILY))
    assert isinstance(error, kind)
    assert not isinstance(error, NO_ANSWER)


def test_what_is_missing_or_gated_is_an_answer(hub: HubServer) -> None:
    hub.repository(FAMILY, gated=True)
    api = HfApi(endpoint=hub.endpoint, token="hf_bens_token")
    calls = {
        RepositoryNotFoundError: lambda: api.repo_info("anna/nothing"),
        RevisionNotFoundError: lambda: api.repo_info(FAMILY, revision="nowhere"),
        GatedRepoError: lambda: api.get_hf_file_metadata(
            url=f"{hub.endpoint}/{FAMILY}/resolve/main/config.json"
        ),
    }
    for kind, call in calls.items():
        error = raised(call)
        assert isinstance(error, kind)
        assert not isinstance(error, NO_ANSWER)
    for other in (LocalTokenNotFoundError("x"), HFValidationError("x"), ValueError("x")):
        assert not isinstance(other, NO_ANSWER)


def test_the_cache_serves_where_no_answer_comes(cached: HubServer) -> None:
    cached.fail("POST", "/paths-info/", CUT, times=9)
    assert list_languages(FAMILY) == ("en", "sw")


@pytest.mark.parametrize(
    ("status", "message"),
    [(500, "The Hub must answer"), (401, "must exist and be readable|valid token"), (403, "owner")],
)
def test_the_cache_does_not_hide_an_answer(status: int, message: str, cached: HubServer) -> None:
    cached.fail("POST", "/paths-info/", status, times=9)
    with pytest.raises(HubError, match=rf"({message}).*Found, for 'anna/family'"):
        list_languages(FAMILY)


@pytest.mark.parametrize("error", [TypeError("a bug"), ValueError("no JSON"), KeyError("sha")])
def test_the_cache_does_not_hide_a_fault_of_the_client(
    error: Exception, cached: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(HfApi, "get_paths_info", broken)
    with pytest.raises(
        HubError, match=rf"must answer. Found, for 'anna/family': {error}"
    ) as caught:
        list_languages(FAMILY)
    assert caught.value.__cause__ is error


def test_a_token_that_is_asked_for_and_missing_is_named(
    cached: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"needs a token. Found.*`hf auth login`, or pass `token=`"):
        list_languages(FAMILY, token=True)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            LocalEntryNotFoundError("gone"),
            "reachable or in the cache. Found, for 'a/b': gone Check",
        ),
        (OfflineModeIsEnabled("off"), "reachable or in the cache. Found, for 'a/b': off Check"),
        (LocalTokenNotFoundError("none"), "needs a token. Found, for 'a/b': none Log in"),
        (HFValidationError("a//b"), "named as `owner/name`. Found, for 'a/b': a//b Check the name"),
        (RuntimeError("hf_secret"), r"must answer. Found, for 'a/b': … The repository is either"),
        (RuntimeError(), r"must answer. Found, for 'a/b': RuntimeError The repository"),
    ],
)
def test_an_error_becomes_one_paragraph(error: Exception, message: str) -> None:
    with pytest.raises(HubError, match=message) as caught, speaking_of("a/b", "hf_secret"):
        raise error
    assert "\n" not in str(caught.value)


def test_the_cause_of_an_upload_counts() -> None:
    with pytest.raises(HubError, match="needs a token"), speaking_of("a/b"):
        raise RuntimeError("Error while uploading") from LocalTokenNotFoundError("none")


def test_our_own_errors_pass() -> None:
    error = DataError("ours")
    with pytest.raises(DataError) as caught, speaking_of("a/b"):
        raise error
    assert caught.value is error
