"""Viewers of made runs, asked without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_runs import complete
from starlette.testclient import TestClient

from cotscope.view.app import build
from cotscope.view.guard import TOKEN_HEADER, Door
from cotscope.view.served import Served

PORT = 8717
TOKEN = {TOKEN_HEADER.decode(): "the-token"}
Viewer = Callable[..., TestClient]


@pytest.fixture(scope="session")
def viewer() -> Viewer:
    """A client of a viewer of some folders, at the address of its host."""

    def asked(*folders: Path, host: str = "127.0.0.1") -> TestClient:
        app = build(Served(folders), Door(host, PORT, "the-token"))
        return TestClient(app, base_url=f"http://{host}:{PORT}", raise_server_exceptions=False)

    return asked


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run, `made`, that holds hostile texts; not to be written to."""
    folder = tmp_path_factory.mktemp("runs")
    complete(folder / "made")
    return folder
