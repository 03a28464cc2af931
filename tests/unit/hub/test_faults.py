"""What goes wrong on the way to the Hub: the repository is as it was before or complete, and the
error is clear.
"""

from collections.abc import Iterator

import pytest

from hf_meta_adapters import LanguageAdapterModel, list_languages
from hf_meta_adapters.errors import HubError
from tests.adapted import adapted, outputs, same, stirred
from tests.hub_server import CUT, HubServer
from tests.tiny import tiny

load = LanguageAdapterModel.from_pretrained
FAMILY = "anna/family"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)


def check_complete_or_as_before(hub: HubServer, before: dict[str, bytes]) -> None:
    assert hub.repositories[FAMILY].files() == before
    assert load(FAMILY).languages == ("en", "sw")


@pytest.mark.parametrize(
    ("method", "path", "how"),
    [
        ("PUT", "/lfs/", CUT),
        ("PUT", "/lfs/", 503),
        ("PUT", "/lfs/", 403),
        ("POST", "objects/batch", 500),
        ("POST", "/preupload/", CUT),
        ("POST", "/commit/", CUT),
        ("POST", "/commit/", 500),
        ("POST", "/commit/", 409),
    ],
)
def test_an_interrupted_push_leaves_the_repository_as_it_was(
    method: str, path: str, how: int, hub: HubServer
) -> None:
    model = stirred(adapted("bert", "lora"))
    model.push_to_hub(FAMILY)
    before = dict(hub.repositories[FAMILY].files())
    hub.fail(method, path, how, times=100)
    with pytest.raises(
        HubError, match=r"(must answer|by its owner|made at once)\. Found, for 'anna/family': .*\."
    ):
        stirred(model).push_to_hub(FAMILY)
    hub._faults.clear()
    check_complete_or_as_before(hub, before)
    model.push_to_hub(FAMILY)  # and then it works
    cell = tiny("bert")
    assert same(
        outputs(load(FAMILY), cell.batch(), language="sw"),
        outputs(model, cell.batch(), language="sw"),
    )


@pytest.mark.parametrize("how", [CUT, 500, 503])
def test_an_upload_goes_on_after_a_passing_fault(how: int, hub: HubServer) -> None:
    hub.fail("PUT", "/lfs/", how)
    adapted("bert", "lora").push_to_hub(FAMILY)
    assert list_languages(FAMILY) == ("en", "sw")


@pytest.mark.parametrize("how", [CUT, 503])
def test_a_download_goes_on_after_a_passing_fault_or_fails_clearly(
    how: int, hub: HubServer
) -> None:
    model = stirred(adapted("bert", "lora"))
    model.push_to_hub(FAMILY)
    hub.fail("GET", "/cdn/", how, times=100)
    with pytest.raises(HubError, match=r"Found, for 'anna/family'"):
        load(FAMILY)
    hub._faults.clear()
    hub.fail("GET", "/cdn/", how)
    try:
        loaded = load(FAMILY)
    except HubError:  # not every version of the client tries again by itself
        loaded = load(FAMILY)
    cell = tiny("bert")
    assert same(
        outputs(loaded, cell.batch(), language="sw"), outputs(model, cell.batch(), language="sw")
    )


def test_a_revision_that_has_moved_is_not_overwritten(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = stirred(adapted("bert", "lora"))
    model.push_to_hub(FAMILY)
    repository = hub.repositories[FAMILY]
    content = repository.files()
    fault = hub.fault

    def somebody_pushes(method: str, path: str) -> int | None:
        if "/preupload/" in path:
            repository.commit("main", {**content, "theirs.txt": b"theirs"}, "theirs")
        return fault(method, path)

    monkeypatch.setattr(hub, "fault", somebody_pushes)
    with pytest.raises(
        HubError,
        match=r"must follow the commit that it was made for. Found.*A commit has happened since",
    ):
        stirred(model).push_to_hub(FAMILY)
    assert repository.files()["theirs.txt"] == b"theirs"


def test_without_a_token_nothing_is_written(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        HubError, match=r"needs a valid token. Found.*`hf auth login`, or pass `token=`"
    ):
        adapted("bert", "lora").push_to_hub(FAMILY)
    with pytest.raises(
        HubError, match=r"needs a valid token. Found.*`hf auth login`, or pass `token=`"
    ):
        adapted("bert", "lora").push_to_hub(FAMILY, token="hf_nobodys_token")
    assert hub.repositories == {}


def test_a_gated_repository_says_how_to_get_in(hub: HubServer) -> None:
    adapted("bert", "lora").push_to_hub(FAMILY)
    hub.repositories[FAMILY].gated = True
    for token in ("hf_bens_token", False):
        with pytest.raises(
            HubError, match=r"gated repository can be read by those.*Ask for access on its page"
        ):
            load(FAMILY, token=token)
    assert load(FAMILY).languages == ("en", "sw")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "anna/nothing",
            {},
            r"must exist and be readable with the token. Found, for 'anna/nothing'",
        ),
        (
            FAMILY,
            {"revision": "nowhere"},
            "must be a branch, a tag or a commit of the repository. Found",
        ),
        (
            "anna/plain",
            {},
            r"must have a file `language_adapters.json`. Found none in 'anna/plain'",
        ),
    ],
)
def test_what_is_not_there_is_named(name: str, options: dict, message: str, hub: HubServer) -> None:
    adapted("bert", "lora").push_to_hub(FAMILY)
    hub.repository("anna/plain", {"config.json": b"{}"})
    for ask in (load, list_languages):
        with pytest.raises(HubError, match=message):
            ask(name, **options)
