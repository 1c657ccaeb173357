"""A report as a browser shows it: narrow and wide, light and dark, on paper; it asks nobody and says no error."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import picture
import pytest
from picture import CHROMIUM, PATIENCE, SCHEMES

pytest.importorskip("playwright.sync_api")
pytest_plugins = ("small_study",)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

PICTURES = """import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import picture
picture.WIDTHS, picture.SCHEMES = (400,), ("light",)
picture.viewer(Path(sys.argv[2]), Path(sys.argv[3]), model=False)
"""
BACKGROUND = "getComputedStyle(document.documentElement).backgroundColor"


@pytest.fixture(scope="module", params=["made", "run"])
def report(request: pytest.FixtureRequest, runs: Path, small_run: Path) -> Path:
    """The report of a run that was made, with hostile texts, and that of one that was really run."""
    return (runs / "made" if request.param == "made" else small_run) / "report.html"


@pytest.fixture(params=[(400, "light"), (1100, "dark")], ids=["narrow", "wide"])
def page(request: pytest.FixtureRequest, report: Path, chromium: Any, wrong: list[str]) -> Iterator[Any]:
    """It, with all that is folded."""
    width, scheme = request.param
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda asked: None if asked.url == report.as_uri() else wrong.append(asked.url))
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    yield page
    page.close()
    assert not wrong


def test_it_fits_its_screen_and_paper(page: Any) -> None:
    width = page.viewport_size["width"]
    assert page.locator("h1").is_visible() and len(page.inner_text("main")) > 1000
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shades = set()
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        shades.add(page.evaluate(BACKGROUND))
    assert len(shades) == 2, "it is as light in the dark"
    page.emulate_media(media="print")
    assert page.locator("h1").is_visible() and page.evaluate(BACKGROUND) == "rgb(255, 255, 255)", "paper is white"
    assert len(page.pdf()) > 10_000


def test_axe_finds_nothing_serious(page: Any) -> None:
    axe = files(pytest.importorskip("axe_playwright_python")).joinpath("axe.min.js").read_text(encoding="utf-8")
    page.evaluate(axe)
    found = page.evaluate("axe.run()")
    assert found["passes"], "axe looked at nothing"
    serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert [f"{v['id']}: {node['html'][:200]} {node['failureSummary']}" for v in serious for node in v["nodes"]] == []


def test_all_pages_and_the_report_have_their_pictures(small_run: Path, tmp_path: Path) -> None:
    """In a process of its own: here a browser is open already."""
    subprocess.run([sys.executable, "-c", PICTURES, Path(picture.__file__).parent, small_run, tmp_path], check=True)
    names = ["compare", "lists", "neurons", "predictions", "report", "run", "runs", "solutions", "try"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}-400-light.png" for name in names]
