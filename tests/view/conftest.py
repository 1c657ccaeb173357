"""Viewers of made runs, asked without a network; and their pages in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_runs import complete, predicted, read
from picture import PATIENCE, browser, viewing
from starlette.testclient import TestClient

from cotscope.view.app import build
from cotscope.view.guard import TOKEN_HEADER, Door
from cotscope.view.served import Served

PORT = 8717
TOKEN = {TOKEN_HEADER.decode(): "the-token"}
STRANGE = '"><img src=x onerror=alert(5)>\u202e'
"""The name of a run's folder."""
Viewer = Callable[..., TestClient]
Visit = Callable[..., Any]


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


# -- in a browser: for modules with `pytest_plugins = ("small_study",)` -------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that were made: one, one of a hostile name, and one whose manifest is broken."""
    made = predicted(complete(tmp_path_factory.mktemp("runs") / "made"))
    read(made)  # it has a report
    for name in (STRANGE, "broken"):
        shutil.copytree(made, made.parent / name)
    (made.parent / "broken/manifest.json").write_text('{"<script>alert(7)</script>\x1b')
    return made.parent


@pytest.fixture(scope="module")
def address(runs: Path, small_run: Path) -> Iterator[str]:
    """A viewer of these, and of `run`, which was really run."""
    with viewing(runs, small_run) as found:
        yield found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture
def wrong() -> list[str]:
    """What went wrong on a page; nothing may be left in it at the end."""
    return []


@pytest.fixture
def visit(address: str, chromium: Any, wrong: list[str]) -> Iterator[Visit]:
    """Opens a link in a new window, as somebody does who was sent it: the page, once it has all that it shows at first."""
    opened = []

    def page(part: str, width: int = 400, scheme: str = "light") -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        opened.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda asked: None if asked.url.startswith(address.split("?")[0]) else wrong.append(asked.url))
        page.goto(f"{address}#/{part}")
        page.wait_for_selector("h1")
        page.wait_for_load_state("networkidle")
        assert "token=" not in page.url.split("#")[0]
        return page

    yield page
    for context in opened:
        context.close()
    assert not wrong
