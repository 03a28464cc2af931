"""A Hub for each test, and the client in front of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_client import connect, disconnect
from tests.hub_server import HubServer


@pytest.fixture
def hub(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """A running Hub that the client of this process speaks to."""
    folder: Path = tmp_path_factory.mktemp("client")
    with HubServer() as server:
        connect(server, folder, monkeypatch)
        yield server
    monkeypatch.undo()
    disconnect()
